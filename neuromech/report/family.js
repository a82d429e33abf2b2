// What is drawn of one family of charges, of a layer, and of several runs, from the data of the page.

const LAWS = { exact: "law", ideal: "law without the leak", continuous: "continuous law", flow: "flow" };
const lines = (packed, names, more = {}) => names.filter(n => packed[n]).map(n =>
  ({ x: floats(packed.step), y: floats(packed[n]), name: n, label: LAWS[n] || n, ...more }));

function family(host, f, large) {
  const c = f.curves;
  if (!c) { host.append(node("p", { class: "quiet" }, "Nothing was recorded for this family.")); return; }
  const grid = node("div", { class: "charts" }), name = file(f.name);
  const figure = spec => chart(grid, { height: large ? 300 : 210, marks: data.marks, unit: f.formula, ...spec });
  host.append(grid, samples(c));
  figure({
    title: `Charge: ${f.name}`, alt: `Charge of ${f.name}, observed against its law: ${f.told}.`, file: name,
    unit: f.formula + (f.size > 1 ? `, all ${f.size}` : ""), least: f.least, direct: large, legend: true,
    lines: [
      ...lines(c.charge, ["exact"]), ...lines(c.charge, ["flow", "continuous"], { loose: true }),
      ...lines(c.charge, ["observed"], { dots: true }),
    ],
  });
  if (c.off.exact) figure({
    title: "How far off the law (grey: what rounding can do)", unit: "relative distance", log: true,
    alt: `Relative distance from the law of ${f.name}; ${f.text}.`, file: `${name}_off`,
    bound: f.eps ? k => 8 * (f.eps + 3 * 2 ** -52) * Math.sqrt(k + 1) : null,
    lines: lines(c.off, ["flow", "continuous", "ideal", "exact"]),
  });
  if (c.members.length) figure({
    title: `${c.members.length} of ${f.size} members`, alt: `Charges of single members of ${f.name}.`,
    file: `${name}_members`, lines: c.members.flatMap(m => [
      ...lines(m, ["exact"], { label: `member ${m.member}, law` }),
      ...lines(m, ["observed"], { dots: true, small: true, label: `member ${m.member}` }),
    ]),
  });
  if (!c.moved.step) return;
  const { areas, change } = stacked(c.moved), causes = areas.map(a => a.label);
  figure({
    title: "What moved the charge since the start", unit: `change of ${f.formula}`, toggle: false,
    alt: `Causes of the change of ${f.name}: ${[...new Set(causes)].join(", ") || "none"}.`, file: `${name}_causes`,
    areas, lines: [change],
  });
  grid.lastChild.append(legend([...new Set(areas.map(a => a.name))]));
}

// What moved a charge up stands on what did so before it, what moved it down below; where one is no number, all is.
function stacked(moved) {
  const x = floats(moved.step), change = x.map(() => 0), areas = [];
  const base = { 1: x.map(() => 0), [-1]: x.map(() => 0) };
  for (const name of Object.keys(moved).filter(n => n !== "step")) {
    const value = floats(moved[name]);
    value.forEach((t, k) => { change[k] += t; });
    for (const sign of [1, -1]) {
      const part = value.map(t => sign * t > 0 ? t : t * 0);
      if (!part.some(t => t)) continue;
      const from = Float32Array.from(base[sign]), to = from.map((b, k) => b + part[k]);
      const [low, high] = sign > 0 ? [from, to] : [to, from];
      areas.push({ x, low, high, name, label: data.causes[name], value });
      base[sign].set(to);
    }
  }
  return { areas, change: { x, y: change, name: "observed", label: "change" } };
}
function samples(c) {
  const laws = Object.keys(LAWS).filter(n => c.charge[n] || c.off[n]);
  return node("ul", { class: "legend" }, ...["observed", ...laws].map(n => {
    const s = shape("svg", { viewBox: "0 0 30 12", "aria-hidden": "true" });
    s.append(n === "observed" ? shape("circle", { class: "dot", cx: 15, cy: 6, r: 3.2 })
      : shape("line", { class: `line ${n}`, x1: 0, x2: 30, y1: 6, y2: 6 }));
    return node("li", {}, s, LAWS[n] || n);
  }));
}
const legend = names => node("ul", { class: "legend" }, ...names.map(n =>
  node("li", {}, node("span", { class: `swatch c-${n}` }), data.causes[n])));

// How far off the law a layer was, step by step: a canvas of one pixel a stretch.
function strip(canvas, packed) {
  const b = bytes(packed), g = canvas.getContext("2d");
  canvas.width = b.length || 1;
  canvas.height = 1;
  const style = getComputedStyle(document.documentElement);
  b.forEach((v, i) => {
    if (v === 255) return;
    const t = v / 254 * 2 - 1, colour = style.getPropertyValue(t > 0 ? "--hot" : "--cold");
    g.fillStyle = `rgba(${colour}, ${t > 0 ? 0.35 + 0.65 * Math.min(1, 1.4 * t) : 0.12 + 0.5 * (1 + t)})`;
    g.fillRect(i, 0, 1, 1);
  });
}

function metric(host, m, more = {}) {
  const line = { x: floats(m.step), y: floats(m.value), name: m.rate ? "rate" : "value", label: m.name };
  const said = { title: m.title, alt: m.alt, unit: m.name, log: m.log, file: file(m.name), marks: data.marks };
  chart(host, { ...said, ...more, lines: [line] });
}
function overlay(host, c) {
  const own = c.lines.map(l => ({ x: floats(l.step), y: floats(l.value), name: l.style, label: l.label }));
  chart(host, { title: c.title, alt: c.alt, unit: c.unit, file: file(c.title), lines: own, direct: true });
}
