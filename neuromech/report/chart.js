// One figure: lines against steps, with values at the pointer, zoom by dragging, log or linear, download.
//
// `spec`: title, alt, unit, file; lines ({x, y, name, label}; dots, small; loose: does not set the limits); areas;
// marks; bound: the largest value by step that rounding explains; direct: lines are labelled at their ends.

const NARROW = 480;  // below which a figure with a legend has no labels at its lines
const LONGEST = 22;  // letters of a label at a line

const known = (l, i, s) => Number.isFinite(l.y[i]) && l.x[i] >= s.x0 && l.x[i] <= s.x1;

function limits(spec, log, s) {
  let ys = [];
  for (const l of spec.lines) {
    if (l.loose && ys.length) continue;
    for (let i = 0; i < l.y.length; i++) if (known(l, i, s) && (!log || l.y[i] > 0)) ys.push(l.y[i]);
  }
  for (const a of spec.areas || []) for (const v of [...a.low, ...a.high]) if (Number.isFinite(v)) ys.push(v);
  if (!ys.length) ys = [log ? 1e-16 : 0, 1];
  let low = ys.reduce((a, b) => Math.min(a, b)), high = ys.reduce((a, b) => Math.max(a, b));
  if (log) {
    const y0 = Math.floor(Math.log10(low));
    return [y0, Math.max(Math.ceil(Math.log10(high)), y0 + 1)];
  }
  if (spec.least && high - low < spec.least) {
    const middle = (low + high) / 2;
    [low, high] = [middle - spec.least / 2, middle + spec.least / 2];
  }
  const pad = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  return [low - pad, high + pad];
}

// Where what is drawn comes to lie: X and Y of a value, and the edges of the plot.
function frame(spec, state, W) {
  const H = spec.height || 220, T = 10, B = 34, { log } = state, [x0, x1] = state.window || state.all;
  const [y0, y1] = limits(spec, log, { x0, x1 }), f = log ? Math.log10 : v => v;
  const levels = log ? decades(y0, y1) : apart(ticks(y0, y1, 6));
  const Y = v => H - B - (f(v) - y0) / (y1 - y0) * (H - T - B), clip = v => Math.min(Math.max(v, T), H - B);
  const L = Math.max(74, 36 + 7 * Math.max(...levels.map(([, text]) => text.length)));  // room for the title beside it
  const s = { W, H, T, B, L, x0, x1, log, levels, Y, clip };
  s.labels = spec.direct && !(spec.legend && W < NARROW) ? labels(spec, s) : [];
  const longest = Math.max(0, ...s.labels.filter(l => l.ends > x1 - 0.1 * (x1 - x0)).map(l => l.text.length));
  s.R = longest ? 14 + 6.6 * longest : 12;
  s.X = v => L + (v - x0) / (x1 - x0) * (W - L - s.R);
  return s;
}

// Behind the end of each line its name; one above the other where they would meet, in the order of their ends.
function labels(spec, s) {
  const named = new Map();
  for (const l of spec.lines) {
    const i = l.y.findLastIndex((_, k) => known(l, k, s) && (!s.log || l.y[k] > 0));
    if (i < 0 || named.has(l.label)) continue;
    const text = l.label.length > LONGEST ? `…${l.label.slice(1 - LONGEST)}` : l.label;  // names differ at their ends
    named.set(l.label, { text, ends: l.x[i], end: s.clip(s.Y(l.y[i])) });
  }
  const stack = [...named.values()].sort((a, b) => a.end - b.end), room = 14;
  stack.forEach((n, k) => { n.y = k ? Math.max(n.end, stack[k - 1].y + room) : Math.max(n.end, s.T + 6); });
  let floor = s.H - s.B;
  for (const [k, n] of [...stack.entries()].reverse()) {
    const under = stack[k + 1];
    n.y = Math.min(n.y, under ? under.y - room : floor);
  }
  return stack;
}

function axes(svg, spec, s) {
  const { W, H, T, B, L, R } = s, foot = H - B, middle = (T + foot) / 2;
  for (const [v, text] of s.levels) {
    const y = s.Y(v);
    svg.append(shape("line", { class: "grid", x1: L, x2: W - R, y1: y, y2: y }),
      shape("text", { x: L - 6, y: y + 4, "text-anchor": "end" }, text));
  }
  for (const v of wholes(s.x0, s.x1, W - L - R)) {
    const anchor = v >= s.x1 ? "end" : "middle";
    svg.append(shape("text", { x: s.X(v), y: foot + 15, "text-anchor": anchor }, v.toLocaleString("en")));
  }
  svg.append(shape("line", { class: "axis", x1: L, x2: W - R, y1: foot, y2: foot }),
    shape("text", { x: (L + W - R) / 2, y: H - 3, "text-anchor": "middle" }, "step"),
    shape("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, spec.unit));
}

function ground(svg, spec, s) {
  const foot = s.H - s.B;
  if (spec.bound) {
    const steps = Array.from({ length: 60 }, (_, i) => s.x0 + (s.x1 - s.x0) * i / 59);
    const edge = steps.map(x => `${s.X(x)},${s.clip(s.Y(spec.bound(x)))}`);
    const points = [`${s.X(s.x0)},${foot}`, ...edge, `${s.X(s.x1)},${foot}`].join(" ");
    svg.append(shape("polygon", { class: "bound", points }));
  }
  for (const a of spec.areas || []) {
    const fill = a.name === "unexplained" ? "url(#hatch)" : `var(--${a.name})`;
    let up = [], down = [];
    const close = () => {
      if (up.length) svg.append(shape("polygon", { class: "area", points: [...up, ...down].join(" "), fill }));
      [up, down] = [[], []];
    };
    a.x.forEach((x, i) => {  // what is no number leaves a gap
      if (!Number.isFinite(a.high[i]) || !Number.isFinite(a.low[i])) close();
      else if (x >= s.x0 && x <= s.x1) {
        up.push(`${s.X(x)},${s.clip(s.Y(a.high[i]))}`);
        down.unshift(`${s.X(x)},${s.clip(s.Y(a.low[i]))}`);
      }
    });
    close();
  }
  for (const m of spec.marks || []) if (m.step >= s.x0 && m.step <= s.x1) {
    const x = s.X(m.step), kind = m.soft ? "mark soft" : "mark";
    const line = shape("line", { class: kind, x1: x, x2: x, y1: s.T, y2: foot });
    line.append(shape("title", {}, `step ${m.step}: ${m.text}`));
    svg.append(line);
  }
}

function curve(svg, l, s) {
  const at = i => [s.X(l.x[i]), s.clip(s.log && l.y[i] === 0 ? s.H - s.B : s.Y(l.y[i]))];
  const dot = (i, r) => svg.append(shape("circle", { class: "dot", cx: at(i)[0], cy: at(i)[1], r }));
  if (l.dots) {
    const every = Math.max(1, Math.floor(l.y.length / 26));
    for (let i = 0; i < l.y.length; i += every)
      if (known(l, i, s) && (!s.log || l.y[i] > 0)) dot(i, l.small ? 2 : 3.2);
    return;
  }
  const good = i => known(l, i, s) && (!s.log || l.y[i] >= 0);
  let d = "";
  for (let i = 0; i < l.y.length; i++) if (good(i)) {  // a gap, never a zero; what stands alone is a dot
    d += `${good(i - 1) ? "L" : "M"}${at(i).map(v => v.toFixed(1)).join(",")}`;
    if (!good(i - 1) && !good(i + 1)) dot(i, 2.4);
  }
  svg.append(shape("path", { class: `line ${l.name}`, d }));
}

function nearest(xs, x) {
  let best = 0;
  xs.forEach((v, i) => { if (Math.abs(v - x) < Math.abs(xs[best] - x)) best = i; });
  return best;
}
const longest = spec => spec.lines.reduce((a, l) => l.x.length > a.x.length ? l : a);

function readout(spec, cursor) {
  const seen = new Map();
  for (const l of spec.lines) if (!seen.has(l.label)) seen.set(l.label, l.y[nearest(l.x, cursor)]);
  for (const a of spec.areas || []) {
    const i = a.x.findIndex(v => v >= cursor);
    if (i >= 0) seen.set(a.label, a.value[i]);
  }
  return `step ${cursor.toLocaleString("en")}: ` + [...seen].map(([n, v]) => `${n} ${say(v)}`).join(", ");
}

function chart(host, spec) {
  const box = node("figure", { class: "chart" });
  const tools = node("div", { class: "tools" }), out = node("div", { class: "readout" });
  const svg = shape("svg", { role: "img", tabindex: 0, "aria-label": spec.alt });
  box.append(node("figcaption", {}, spec.title), tools, svg, out);
  host.append(box);
  const xs = spec.lines.flatMap(l => [Math.min(...l.x), Math.max(...l.x)]);
  const all = [Math.min(...xs), Math.max(...xs)];
  if (all[0] === all[1]) { all[0] -= 0.4; all[1] += 0.4; }
  const state = { log: !!spec.log, window: null, cursor: null, drag: null, all };
  let s = null;

  function button(text, action, pressed) {
    const b = node("button", { type: "button" }, text);
    if (pressed !== undefined) b.setAttribute("aria-pressed", pressed);
    b.addEventListener("click", () => action(b));
    tools.append(b);
    return b;
  }
  if (spec.toggle !== false) button("log", b => {
    state.log = !state.log;
    b.setAttribute("aria-pressed", state.log);
    draw();
  }, state.log);
  const whole = button("whole run", () => { state.window = null; draw(); });
  button("data", () => save(`${spec.file}.csv`, "text/csv", csv(spec.lines)));
  button("figure", () => save(`${spec.file}.svg`, "image/svg+xml", standalone(svg)));

  function draw() {
    s = frame(spec, state, Math.max(280, box.clientWidth || 600));
    whole.hidden = !state.window;
    svg.setAttribute("viewBox", `0 0 ${s.W} ${s.H}`);
    svg.replaceChildren();
    axes(svg, spec, s);
    ground(svg, spec, s);
    for (const l of spec.lines) curve(svg, l, s);
    for (const n of s.labels) svg.append(shape("text", { class: "label", x: s.X(n.ends) + 7, y: n.y + 4 }, n.text));
    const { cursor, drag } = state, foot = s.H - s.B;
    if (cursor !== null && cursor >= s.x0 && cursor <= s.x1)
      svg.append(shape("line", { class: "cursor", x1: s.X(cursor), x2: s.X(cursor), y1: s.T, y2: foot }));
    if (drag && drag.to !== undefined) {
      const [a, b] = [s.X(drag.from), s.X(drag.to)].sort((p, q) => p - q);
      svg.append(shape("rect", { class: "zoom", x: a, width: b - a, y: s.T, height: foot - s.T }));
    }
  }
  function at(x) {
    const main = longest(spec).x;
    state.cursor = main[nearest(main, x)];
    out.textContent = readout(spec, state.cursor);
    draw();
  }
  function leave() {
    state.drag = state.cursor = null;
    out.textContent = "";
    draw();
  }
  const step = e => {
    const r = svg.getBoundingClientRect(), px = (e.clientX - r.left) * s.W / r.width;
    const x = s.x0 + (px - s.L) / (s.W - s.L - s.R) * (s.x1 - s.x0);
    return Math.min(Math.max(x, s.x0), s.x1);
  };
  svg.addEventListener("pointerdown", e => { state.drag = { from: step(e) }; });
  svg.addEventListener("pointermove", e => { if (state.drag) state.drag.to = step(e); at(step(e)); });
  svg.addEventListener("pointerup", () => {
    const { from, to } = state.drag || {};
    if (to !== undefined && Math.abs(to - from) > (s.x1 - s.x0) / 100) state.window = [from, to].sort((p, q) => p - q);
    state.drag = null;
    draw();
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("dblclick", () => { state.window = null; draw(); });
  svg.addEventListener("keydown", e => {
    const jump = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[e.key];
    if (e.key === "Escape") { state.window = null; leave(); }
    if (!jump) return;
    e.preventDefault();
    const x = longest(spec).x, now = state.cursor === null ? -1 : x.indexOf(state.cursor);
    at(x[Math.min(Math.max(now + jump, 0), x.length - 1)]);
  });
  draw();
  new ResizeObserver(draw).observe(box);
}
