// Elements, numbers as a person reads them, and what is saved: no state, nothing of a run.

const $ = (selector, within = document) => within.querySelector(selector);
const NS = "http://www.w3.org/2000/svg";

function dressed(out, attributes) {
  for (const [k, v] of Object.entries(attributes)) out.setAttribute(k, v);
  return out;
}
function node(tag, attributes = {}, ...children) {
  const out = dressed(document.createElement(tag), attributes);
  out.append(...children);
  return out;
}
function shape(tag, attributes = {}, text) {
  const out = dressed(document.createElementNS(NS, tag), attributes);
  if (text !== undefined) out.textContent = text;
  return out;
}
const bytes = s => Uint8Array.from(atob(s), c => c.charCodeAt(0));
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

// -- labels of an axis

function ticks(low, high, n) {
  const raw = (high - low) / n || 1, unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(k => k * unit).find(s => s >= raw) || 10 * unit;
  const out = [];
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-9 * step; t += step)
    out.push(Math.abs(t) < 1e-9 * step ? 0 : t);
  return out;
}
function decades(a, b) {
  const every = Math.max(1, Math.ceil((b - a) / 5)), out = [];
  for (let d = b; d >= a; d -= every) out.push([10 ** d, power(d)]);
  return out;
}
function apart(values) {  // as few digits as tell them all as they are
  const step = Math.abs(values[1] - values[0]) || 1;
  const good = d => values.every(v => v === 0 || Math.abs(+v.toPrecision(d) - v) < 0.01 * step);
  const digits = [2, 3, 4, 5, 6, 7, 8].find(good) || 9;
  return values.map(v => [v, say(v, Math.abs(v) >= 1e-3 && Math.abs(v) < 1e5 ? digits : digits + 1)]);
}
function wholes(x0, x1, width) {  // steps, the last one always
  const out = ticks(x0, x1, Math.min(6, width / 90)).filter(Number.isInteger), last = Math.round(x1);
  if (last <= (out.at(-1) ?? x0)) return out;
  return out.filter(t => (x1 - t) / (x1 - x0) * width > 50).concat(last);
}

// -- what is saved

function csv(lines) {
  const rows = new Map();
  lines.forEach((l, j) => l.x.forEach((x, i) => {
    if (!rows.has(x)) rows.set(x, Array(lines.length).fill(""));
    rows.get(x)[j] = l.y[i];
  }));
  const quoted = s => `"${String(s).replace(/"/g, '""').replace(/^([=+\-@\t])/, "'$1")}"`;
  const head = ["step", ...lines.map(l => quoted(l.label))];
  const body = [...rows].sort((a, b) => a[0] - b[0]).map(([x, v]) => [x, ...v]);
  return [head, ...body].map(r => r.join(",")).join("\n");
}
const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-family", "opacity"];
function standalone(svg) {
  const copy = svg.cloneNode(true), source = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((n, i) => {
    const style = getComputedStyle(source[i]);
    n.setAttribute("style", KEPT.map(k => `${k}:${style.getPropertyValue(k)}`).join(";"));
  });
  copy.setAttribute("xmlns", NS);
  return new XMLSerializer().serializeToString(copy);
}
function save(name, type, text) {
  const a = node("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 1000);
}
const file = s => s.replace(/[^\w]+/g, "_").slice(0, 60) || "figure";
