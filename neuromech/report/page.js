"use strict";
// The page can be read before this runs, so that it loads as fast as one without a script.
addEventListener("load", () => setTimeout(async () => {
const bytes = s => Uint8Array.from(atob(s), c => c.charCodeAt(0));
const packed = new Blob([bytes(document.getElementById("data").textContent)]).stream();
const data = JSON.parse(await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text());
const $ = (selector, within = document) => within.querySelector(selector);
const NS = "http://www.w3.org/2000/svg";

function node(tag, attributes = {}, ...children) {
  const out = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) out.setAttribute(k, v);
  out.append(...children);
  return out;
}
function shape(tag, attributes = {}, text) {
  const out = document.createElementNS(NS, tag);
  for (const [k, v] of Object.entries(attributes)) out.setAttribute(k, v);
  if (text !== undefined) out.textContent = text;
  return out;
}
const floats = s => new Float32Array(bytes(s).buffer);
const SUPER = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const power = d => "10" + String(d).split("").map(c => SUPER[c]).join("");
function say(x, digits = 4) {
  if (!Number.isFinite(x)) return "not a number";
  if (x === 0) return "0";
  const a = Math.abs(x);
  if (a >= 1e-3 && a < 1e5) return String(+x.toPrecision(digits));
  const [m, e] = x.toExponential(digits - 2).split("e");
  return `${+m}×${power(+e)}`;
}

// -- figures: lines against steps, with values at the pointer, zoom by dragging, log or linear, download

function ticks(low, high, n) {
  const raw = (high - low) / n || 1, unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(k => k * unit).find(s => s >= raw) || 10 * unit;
  const out = [];
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-9 * step; t += step) out.push(Math.abs(t) < 1e-9 * step ? 0 : t);
  return out;
}

function told(values) {
  const apart = d => new Set(values.map(v => say(v, d))).size === values.length;
  const digits = [3, 4, 5, 6, 7, 8].find(apart) || 9;
  return values.map(v => [v, say(v, digits)]);
}

function chart(host, spec) {
  const box = node("figure", { class: "chart" });
  const tools = node("div", { class: "tools" }), out = node("div", { class: "readout" });
  const svg = shape("svg", { role: "img", tabindex: 0, "aria-label": spec.alt });
  const name = node("figcaption", {}, spec.title);
  box.append(name, tools, svg, out);
  host.append(box);
  let log = !!spec.log, window = null, cursor = null, drag = null, scale = null;
  const xs = spec.lines.flatMap(l => [Math.min(...l.x), Math.max(...l.x)]);
  const all = [Math.min(...xs), Math.max(...xs)];
  if (all[0] === all[1]) { all[0] -= 0.4; all[1] += 0.4; }

  function button(text, action, pressed) {
    const b = node("button", { type: "button" }, text);
    if (pressed !== undefined) b.setAttribute("aria-pressed", pressed);
    b.addEventListener("click", () => action(b));
    tools.append(b);
    return b;
  }
  if (spec.toggle !== false) button("log", b => { log = !log; b.setAttribute("aria-pressed", log); draw(); }, log);
  const whole = button("whole run", () => { window = null; draw(); });
  button("data", () => save(`${spec.file}.csv`, "text/csv", csv(spec.lines)));
  button("figure", () => save(`${spec.file}.svg`, "image/svg+xml", standalone(svg)));

  function draw() {
    const W = Math.max(280, box.clientWidth || 600), H = spec.height || 220, R = 12, T = 10, B = 34;
    const [x0, x1] = window || all;
    whole.hidden = !window;
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    svg.replaceChildren();
    const inside = (l, i) => l.x[i] >= x0 && l.x[i] <= x1;
    let ys = [];
    for (const l of spec.lines) {
      if (l.loose && ys.length) continue;
      for (let i = 0; i < l.y.length; i++) if (inside(l, i) && Number.isFinite(l.y[i]) && (!log || l.y[i] > 0)) ys.push(l.y[i]);
    }
    for (const a of spec.areas || []) for (const v of [...a.low, ...a.high]) if (Number.isFinite(v)) ys.push(v);
    if (!ys.length) ys = [log ? 1e-16 : 0, 1];
    let low = ys.reduce((a, b) => Math.min(a, b)), high = ys.reduce((a, b) => Math.max(a, b));
    if (spec.least && high - low < spec.least) { const m = (low + high) / 2; low = m - spec.least / 2; high = m + spec.least / 2; }
    const f = log ? Math.log10 : v => v;
    let y0 = f(low), y1 = f(high);
    if (log) { y0 = Math.floor(y0); y1 = Math.max(Math.ceil(y1), y0 + 1); }
    else { const pad = (y1 - y0) * 0.06 || Math.abs(y1) * 0.05 || 1; y0 -= pad; y1 += pad; if (spec.zero && y0 > -1e-12 - pad) y0 = Math.max(y0, 0); }
    const yt = log ? range(y0, y1) : told(ticks(y0, y1, 4));
    const L = Math.max(74, 36 + 7 * Math.max(...yt.map(([, text]) => text.length)));  // room for the title beside the longest
    const X = v => L + (v - x0) / (x1 - x0) * (W - L - R), Y = v => H - B - (f(v) - y0) / (y1 - y0) * (H - T - B);
    const clip = v => Math.min(Math.max(v, T), H - B);
    scale = { X, L, R, W, x0, x1 };
    for (const [v, text] of yt) {
      const y = H - B - ((log ? Math.log10(v) : v) - y0) / (y1 - y0) * (H - T - B);
      svg.append(shape("line", { class: "grid", x1: L, x2: W - R, y1: y, y2: y }), shape("text", { x: L - 6, y: y + 4, "text-anchor": "end" }, text));
    }
    let xt = ticks(x0, x1, Math.min(6, W / 90)).filter(Number.isInteger);
    if (Math.round(x1) > (xt.at(-1) ?? x0)) xt = xt.filter(t => X(x1) - X(t) > 50).concat(Math.round(x1));
    for (const v of xt) svg.append(shape("text", { x: X(v), y: H - B + 15, "text-anchor": v >= x1 ? "end" : "middle" }, v.toLocaleString("en")));
    svg.append(shape("line", { class: "axis", x1: L, x2: W - R, y1: H - B, y2: H - B }),
      shape("text", { x: (L + W - R) / 2, y: H - 3, "text-anchor": "middle" }, "step"),
      shape("text", { x: 12, y: (T + H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(T + H - B) / 2})` }, spec.unit));
    if (spec.bound) {
      const p = range60(x0, x1).map(x => `${X(x)},${clip(Y(spec.bound(x)))}`);
      svg.append(shape("polygon", { class: "bound", points: [`${X(x0)},${H - B}`, ...p, `${X(x1)},${H - B}`].join(" ") }));
    }
    for (const a of spec.areas || []) {
      const up = [], down = [];
      a.x.forEach((x, i) => { if (x >= x0 && x <= x1) { up.push(`${X(x)},${clip(Y(a.high[i]))}`); down.unshift(`${X(x)},${clip(Y(a.low[i]))}`); } });
      svg.append(shape("polygon", { points: [...up, ...down].join(" "), fill: a.name === "unexplained" ? "url(#hatch)" : `var(--${a.name})`, "fill-opacity": 0.85, stroke: "var(--paper)", "stroke-width": 0.6 }));
    }
    for (const m of spec.marks || []) if (m.step >= x0 && m.step <= x1) {
      const line = shape("line", { class: m.soft ? "mark soft" : "mark", x1: X(m.step), x2: X(m.step), y1: T, y2: H - B });
      line.append(shape("title", {}, `step ${m.step}: ${m.text}`));
      svg.append(line);
    }
    for (const l of spec.lines) {
      let d = "", pen = false;
      for (let i = 0; i < l.y.length; i++) {
        const good = Number.isFinite(l.y[i]) && inside(l, i) && (!log || l.y[i] >= 0);
        const alone = good && !pen && !(Number.isFinite(l.y[i + 1]) && inside(l, i + 1) && (!log || l.y[i + 1] >= 0));
        if (good) d += `${pen ? "L" : "M"}${X(l.x[i]).toFixed(1)},${clip(log && l.y[i] === 0 ? H - B : Y(l.y[i])).toFixed(1)}${alone ? "h0" : ""}`;
        if (alone) svg.append(shape("circle", { class: "dot", cx: X(l.x[i]), cy: clip(Y(l.y[i])), r: 2.4 }));
        pen = good;
      }
      if (!l.dots) svg.append(shape("path", { class: `line ${l.name}`, d }));
      else {
        const every = Math.max(1, Math.floor(l.y.length / 26));
        for (let i = 0; i < l.y.length; i += every) if (Number.isFinite(l.y[i]) && inside(l, i) && (!log || l.y[i] > 0))
          svg.append(shape("circle", { class: "dot", cx: X(l.x[i]), cy: clip(Y(l.y[i])), r: l.small ? 2 : 3.2 }));
      }
    }
    // Above all of a line that a label at its right end would cover, or below it, whichever is nearer to its end.
    const beside = (l, end) => {
      const near = [end];
      l.x.forEach((x, i) => { if (inside(l, i) && Number.isFinite(l.y[i]) && X(x) > W - R - 110) near.push(clip(Y(l.y[i]))); });
      const above = Math.min(...near) - 8, below = Math.max(...near) + 16;
      const up = above >= T + 10 && (end - above <= below - end || below > H - B - 4);
      return up ? above : Math.min(below, H - B - 4);
    };
    if (spec.direct) {
      const named = [];
      for (const l of spec.lines) {
        const i = l.dots ? Math.floor(l.y.length * 0.25) : l.y.findLastIndex((v, k) => Number.isFinite(v) && inside(l, k));
        if (i < 0 || !Number.isFinite(l.y[i])) continue;
        const end = clip(Y(l.y[i])), same = named.find(n => !n.l.dots && !l.dots && Math.abs(n.end - end) < 2);
        if (same) same.text += `, ${l.label}`;  // lines that end on one another have one label
        else named.push({ l, i, end, y: l.dots ? Math.max(end - 8, T + 10) : beside(l, end), text: l.label });
      }
      // At the right end one above the other, in the order of their lines: up from the lowest, then down from the top.
      const stack = named.filter(n => !n.l.dots).sort((a, b) => b.y - a.y || b.l.y[b.i] - a.l.y[a.i]);
      stack.forEach((n, k) => { if (k) n.y = Math.min(n.y, stack[k - 1].y - 14); });
      stack.reverse().forEach((n, k) => { n.y = Math.max(n.y, k ? stack[k - 1].y + 14 : T + 10); });
      for (const { l, i, y, text } of named)
        svg.append(shape("text", { class: "label", x: l.dots ? X(l.x[i]) + 8 : W - R - 4, y, "text-anchor": l.dots ? "start" : "end" }, text));
    }
    if (cursor !== null && cursor >= x0 && cursor <= x1) svg.append(shape("line", { class: "cursor", x1: X(cursor), x2: X(cursor), y1: T, y2: H - B }));
    if (drag && drag.to !== undefined) svg.append(shape("rect", { class: "zoom", x: Math.min(X(drag.from), X(drag.to)), width: Math.abs(X(drag.to) - X(drag.from)), y: T, height: H - T - B }));
  }
  function range(a, b) {
    const every = Math.max(1, Math.ceil((b - a) / 5)), out = [];
    for (let d = b; d >= a; d -= every) out.push([10 ** d, power(d)]);
    return out;
  }
  const range60 = (a, b) => Array.from({ length: 60 }, (_, i) => a + (b - a) * i / 59);
  function at(x) {
    const main = spec.lines.reduce((a, l) => l.x.length > a.x.length ? l : a);
    let best = 0;
    main.x.forEach((v, i) => { if (Math.abs(v - x) < Math.abs(main.x[best] - x)) best = i; });
    cursor = main.x[best];
    const seen = [];
    for (const l of spec.lines) {
      if (l.silent) continue;
      let k = 0;
      l.x.forEach((v, i) => { if (Math.abs(v - cursor) < Math.abs(l.x[k] - cursor)) k = i; });
      if (!seen.some(s => s[0] === l.label)) seen.push([l.label, l.y[k]]);
    }
    for (const a of spec.areas || []) { const i = a.x.findIndex(v => v >= cursor); if (i >= 0) seen.push([a.label, a.value[i]]); }
    out.textContent = `step ${cursor.toLocaleString("en")}: ` + seen.map(([n, v]) => `${n} ${say(v)}`).join(", ");
    draw();
  }
  const step = e => { const r = svg.getBoundingClientRect(); const px = (e.clientX - r.left) * scale.W / r.width;
    return Math.min(Math.max(scale.x0 + (px - scale.L) / (scale.W - scale.L - scale.R) * (scale.x1 - scale.x0), scale.x0), scale.x1); };
  svg.addEventListener("pointerdown", e => { drag = { from: step(e) }; });
  svg.addEventListener("pointermove", e => { if (drag) drag.to = step(e); at(step(e)); });
  svg.addEventListener("pointerup", () => { if (drag && drag.to !== undefined && Math.abs(drag.to - drag.from) > (scale.x1 - scale.x0) / 100)
    window = [Math.min(drag.from, drag.to), Math.max(drag.from, drag.to)]; drag = null; draw(); });
  svg.addEventListener("pointerleave", () => { drag = null; cursor = null; out.textContent = ""; draw(); });
  svg.addEventListener("dblclick", () => { window = null; draw(); });
  svg.addEventListener("keydown", e => {
    const jump = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[e.key];
    if (e.key === "Escape") { window = null; cursor = null; out.textContent = ""; draw(); }
    if (!jump) return;
    e.preventDefault();
    const x = spec.lines.reduce((a, l) => l.x.length > a.x.length ? l : a).x;
    const now = cursor === null ? -1 : x.indexOf(cursor);
    at(x[Math.min(Math.max(now + jump, 0), x.length - 1)]);
  });
  draw();
  new ResizeObserver(draw).observe(box);
}
function csv(lines) {
  const rows = new Map();
  lines.forEach((l, j) => l.x.forEach((x, i) => { if (!rows.has(x)) rows.set(x, Array(lines.length).fill("")); rows.get(x)[j] = l.y[i]; }));
  const quoted = s => `"${String(s).replace(/"/g, '""').replace(/^([=+\-@\t])/, "'$1")}"`;
  return [["step", ...lines.map(l => quoted(l.label))], ...[...rows].sort((a, b) => a[0] - b[0]).map(([x, v]) => [x, ...v])].map(r => r.join(",")).join("\n");
}
function standalone(svg) {
  const copy = svg.cloneNode(true), source = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((n, i) => {
    const style = getComputedStyle(source[i]);
    n.setAttribute("style", ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-family", "opacity"].map(k => `${k}:${style.getPropertyValue(k)}`).join(";"));
  });
  copy.setAttribute("xmlns", NS);
  return new XMLSerializer().serializeToString(copy);
}
function save(name, type, text) {
  const a = node("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 1000);
}

// -- what is drawn of a run, a family, a layer

const LAWS = { exact: "law", ideal: "law without the leak", continuous: "continuous law", flow: "flow" };
const lines = (packed, names, more = {}) => names.filter(n => packed[n]).map(n => ({ x: floats(packed.step), y: floats(packed[n]), name: n, label: LAWS[n] || n, ...more }));
const file = s => s.replace(/[^\w]+/g, "_").slice(0, 60) || "figure";

function family(host, i, large) {
  const f = data.families[i], c = f.curves;
  if (!c) { host.append(node("p", { class: "quiet" }, "Nothing was recorded for this family.")); return; }
  const grid = node("div", { class: "charts" }), height = large ? 300 : 210;
  host.append(grid);
  const laws = ["exact", "ideal", "continuous", "flow"].filter(n => c.charge[n] || c.off[n]);
  host.append(node("ul", { class: "legend" }, ...["observed", ...laws].map(n => {
    const s = shape("svg", { viewBox: "0 0 30 12", "aria-hidden": "true" });
    s.append(n === "observed" ? shape("circle", { class: "dot", cx: 15, cy: 6, r: 3.2 }) : shape("line", { class: `line ${n}`, x1: 0, x2: 30, y1: 6, y2: 6 }));
    return node("li", {}, s, LAWS[n] || n);
  })));
  const unit = f.formula + (f.size > 1 ? `, all ${f.size}` : "");
  chart(grid, { title: `Charge: ${f.name}`, alt: `Charge of ${f.name}, observed against its law: ${f.told}.`, unit, height, file: file(f.name), marks: data.marks, least: f.least, direct: large,
    lines: [...lines(c.charge, ["exact"]), ...lines(c.charge, ["flow", "continuous"], { loose: true }), { ...lines(c.charge, ["observed"])[0], dots: true }] });
  if (c.off.exact) chart(grid, { title: "How far off the law (grey: what rounding can do)", alt: `Relative distance from the law of ${f.name}; ${f.text}.`, unit: "relative distance", log: true, height,
    file: file(f.name) + "_off", marks: data.marks, bound: f.eps ? k => 8 * (f.eps + 3 * 2 ** -52) * Math.sqrt(k + 1) : null, lines: lines(c.off, ["flow", "continuous", "ideal", "exact"]) });
  if (c.members.length) chart(grid, { title: `${c.members.length} of ${f.size} members`, alt: `Charges of single members of ${f.name}.`, unit: f.formula, height, file: file(f.name) + "_members", marks: data.marks,
    lines: c.members.flatMap(m => [...lines(m, ["exact"], { label: `member ${m.member}, law` }), { ...lines(m, ["observed"])[0], dots: true, small: true, label: `member ${m.member}` }]) });
  if (c.moved.step) {
    const x = floats(c.moved.step), names = Object.keys(c.moved).filter(n => n !== "step"), up = x.map(() => 0), down = x.map(() => 0), areas = [];
    const sum = x.map(() => 0);
    for (const n of names) {
      const v = floats(c.moved[n]);
      for (const [sign, base] of [[1, up], [-1, down]]) {
        const part = v.map(t => Number.isFinite(t) ? (sign > 0 ? Math.max(t, 0) : Math.min(t, 0)) : NaN);
        if (!part.some(t => t)) continue;
        const from = Float32Array.from(base), to = from.map((b, k) => b + (part[k] || 0));
        areas.push({ x, low: sign > 0 ? from : to, high: sign > 0 ? to : from, name: n, label: data.causes[n], value: v });
        base.set(to);
      }
      v.forEach((t, k) => { sum[k] += t; });
    }
    chart(grid, { title: "What moved the charge since the start", alt: `Causes of the change of ${f.name}: ${names.map(n => data.causes[n]).join(", ")}.`, unit: `change of ${f.formula}`, toggle: false, height, file: file(f.name) + "_causes",
      marks: data.marks, areas, lines: [{ x, y: sum, name: "observed", label: "change" }] });
    grid.lastChild.append(legend(names));
  }
}
function legend(names) {
  const ul = node("ul", { class: "legend" });
  for (const n of names) ul.append(node("li", {}, node("span", { class: `swatch c-${n}`, style: "" }), data.causes[n]));
  return ul;
}
function strip(canvas, packed) {
  const b = bytes(packed), g = canvas.getContext("2d");
  canvas.width = b.length || 1; canvas.height = 1;
  const style = getComputedStyle(document.documentElement), hot = style.getPropertyValue("--hot"), cold = style.getPropertyValue("--cold");
  b.forEach((v, i) => { if (v === 255) return; const t = v / 254 * 2 - 1; g.fillStyle = `rgba(${t > 0 ? hot : cold}, ${t > 0 ? 0.35 + 0.65 * Math.min(1, 1.4 * t) : 0.12 + 0.5 * (1 + t)})`; g.fillRect(i, 0, 1, 1); });
}
const later = new IntersectionObserver(seen => { for (const s of seen) if (s.isIntersecting) { later.unobserve(s.target); s.target.draw(); } }, { rootMargin: "200px" });
function whenSeen(element, draw) { element.draw = draw; later.observe(element); }

// -- the page

for (const host of document.querySelectorAll("[data-family]")) whenSeen(host, () => family(host, +host.dataset.family, true));
for (const canvas of document.querySelectorAll("canvas.strip")) whenSeen(canvas, () => strip(canvas, canvas.dataset.strip));
const overlays = $("#overlays");
for (const c of data.overlays || []) { const host = node("div"); overlays.append(host); whenSeen(host, () => chart(host, { title: c.title, alt: c.alt, unit: c.unit, file: file(c.title),
  lines: c.lines.map(l => ({ x: floats(l.step), y: floats(l.value), name: l.style, label: l.label })), direct: true })); }
const first = $("#curve");
if (first && data.several) {
  first.replaceChildren();
  for (const m of data.metrics.slice(0, 1)) chart(first, { title: m.title, alt: m.alt, unit: m.name, log: m.log, height: 260, file: m.name, marks: data.marks,
    lines: [{ x: floats(m.step), y: floats(m.value), name: "value", label: m.name }] });
}
const others = $("#metrics");
if (others) whenSeen(others, () => { for (const m of data.metrics.slice(data.several)) chart(others, { title: m.title, alt: m.alt, unit: m.name, log: m.log, file: m.name, marks: data.marks,
  lines: [{ x: floats(m.step), y: floats(m.value), name: m.rate ? "rate" : "value", label: m.name }] }); });

for (const row of document.querySelectorAll("tr[data-layers]")) $("button.open", row)?.addEventListener("click", e => {
  const b = e.currentTarget, next = row.nextElementSibling;
  if (next && next.classList.contains("detail")) { next.remove(); b.setAttribute("aria-expanded", "false"); return; }
  const cell = node("td", { colspan: row.children.length }), panel = node("div", { class: "panel" });
  cell.append(panel);
  row.after(Object.assign(node("tr", { class: "detail" }, cell)));
  b.setAttribute("aria-expanded", "true");
  const ids = row.dataset.layers.split(" ").map(Number), many = ids.length > 1;
  for (const id of ids) {
    const layer = data.layers[id], host = many ? node("details", {}, node("summary", {}, layer.name)) : node("div");
    panel.append(host);
    const fill = () => { if (host.dataset.done) return; host.dataset.done = 1;
      if (!layer.families.length) host.append(node("p", { class: "quiet" }, "No symmetry was found that moves these parameters."));
      for (const i of layer.families) {
        const f = data.families[i], part = node("div");
        part.append(node("h3", {}, node("code", {}, f.name)), node("p", { class: "quiet" }, `${f.text}. Evidence: ${f.evidence}. ${f.reason}`));
        host.append(part);
        whenSeen(part, () => family(part, i));
      } };
    if (many) { const c = node("canvas", { class: "strip" }); host.firstChild.append(" ", c); whenSeen(c, () => strip(c, layer.strip)); host.addEventListener("toggle", fill); } else fill();
  }
});
const search = $("#search"), status = $("#status"), count = $("#count");
function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of document.querySelectorAll("tr[data-layers]")) {
    const good = words.every(w => row.dataset.text.includes(w)) && (!status.value || row.dataset.status === status.value);
    row.hidden = !good;
    if (row.nextElementSibling?.classList.contains("detail")) row.nextElementSibling.hidden = !good;
    shown += good;
  }
  count.textContent = words.length || status.value ? `${shown} rows match` : "";
}
search?.addEventListener("input", filter);
status?.addEventListener("change", filter);
for (const th of document.querySelectorAll("table.model th[data-sort]")) $("button", th).addEventListener("click", () => {
  const body = $("table.model tbody"), down = th.getAttribute("aria-sort") !== "descending";
  for (const other of document.querySelectorAll("table.model th[data-sort]")) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
  for (const d of body.querySelectorAll("tr.detail")) d.remove();
  for (const b of body.querySelectorAll("button.open")) b.setAttribute("aria-expanded", "false");
  const key = r => th.dataset.sort === "name" ? r.dataset.text : parseFloat(r.dataset[th.dataset.sort]);
  const rows = [...body.rows].sort((a, b) => { const [p, q] = [key(a), key(b)]; return (p < q ? -1 : p > q ? 1 : 0) * (down ? -1 : 1); });
  body.append(...rows);
});
const table = $("#all-families");
table?.addEventListener("toggle", () => {
  if (table.dataset.done) return;
  table.dataset.done = 1;
  const body = $("tbody", table);
  for (const f of data.families) body.append(node("tr", {}, node("th", { scope: "row" }, node("code", {}, f.name)), node("td", {}, f.kind), node("td", { class: "number" }, String(f.size)),
    node("td", { class: "number" }, f.defect), node("td", {}, f.evidence), node("td", {}, f.text), node("td", { class: "why" }, f.reason)));
});
const theme = $("#theme");
theme?.addEventListener("click", () => {
  const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  for (const c of document.querySelectorAll("canvas.strip")) if (c.dataset.strip && c.width !== 300) strip(c, c.dataset.strip);
});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => { if (d.id !== "all-families") d.open = true; }));
}));
