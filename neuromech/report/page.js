// The page: what is drawn when it comes into view, rows that open, are found and sorted, and the theme.

const packed = new Blob([bytes($("#data").textContent)]).stream();
const data = JSON.parse(await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text());

const waiting = new Map();  // what is to be drawn, by the element that it is drawn in
function drawn(element) {
  const draw = waiting.get(element);
  waiting.delete(element);
  later.unobserve(element);
  draw?.();
}
const later = new IntersectionObserver(seen => {
  for (const s of seen) if (s.isIntersecting) drawn(s.target);
}, { rootMargin: "200px" });
function whenSeen(element, draw) { waiting.set(element, draw); later.observe(element); }

for (const host of document.querySelectorAll("[data-family]"))
  whenSeen(host, () => family(host, data.families[+host.dataset.family], true));
for (const canvas of document.querySelectorAll("canvas.strip"))
  whenSeen(canvas, () => strip(canvas, canvas.dataset.strip));
for (const c of data.overlays || []) {
  const host = node("div");
  $("#overlays").append(host);
  whenSeen(host, () => overlay(host, c));
}
if ($("#curve") && data.several) {
  $("#curve").replaceChildren();
  metric($("#curve"), data.metrics[0], { height: 260 });
}
const others = $("#metrics");
if (others) whenSeen(others, () => { for (const m of data.metrics.slice(data.several)) metric(others, m); });

// -- the table of layers: a click on a row opens its charges below it

const rows = () => [...document.querySelectorAll("tr[data-layers]")];
const below = row => row.nextElementSibling?.classList.contains("detail") ? row.nextElementSibling : null;

function charges(host, layer) {
  if (!layer.families.length) host.append(node("p", { class: "quiet" }, data.none));
  for (const f of layer.families.map(i => data.families[i])) {
    const about = node("p", { class: "quiet" }, `${f.text}. Evidence: ${f.evidence}. ${f.reason}`);
    const part = node("div", {}, node("h3", {}, node("code", {}, f.name)), about);
    host.append(part);
    whenSeen(part, () => family(part, f));
  }
}
function folded(layer) {  // one of several layers that share a row
  const canvas = node("canvas", { class: "strip" });
  const host = node("details", {}, node("summary", {}, layer.name, " ", canvas));
  whenSeen(canvas, () => strip(canvas, layer.strip));
  host.addEventListener("toggle", () => charges(host, layer), { once: true });
  return host;
}
function open(row, button) {
  const shown = below(row);
  button.setAttribute("aria-expanded", String(!shown));
  if (shown) { shown.remove(); return; }
  const panel = node("div", { class: "panel" }), cell = node("td", { colspan: row.children.length }, panel);
  row.after(node("tr", { class: "detail" }, cell));
  const own = row.dataset.layers.split(" ").map(id => data.layers[+id]);
  if (own.length === 1) charges(panel, own[0]);
  else panel.append(...own.map(folded));
}
for (const row of rows()) $("button.open", row)?.addEventListener("click", e => open(row, e.currentTarget));

const search = $("#search"), status = $("#status");
function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows()) {
    const found = words.every(w => row.dataset.text.includes(w));
    row.hidden = !(found && (!status.value || row.dataset.status === status.value));
    if (below(row)) below(row).hidden = row.hidden;
    shown += !row.hidden;
  }
  $("#count").textContent = words.length || status.value ? `${shown} rows match` : "";
}
search?.addEventListener("input", filter);
status?.addEventListener("change", filter);

function sort(th) {
  const down = th.getAttribute("aria-sort") !== "descending", body = $("table.model tbody"), by = th.dataset.sort;
  for (const other of document.querySelectorAll("table.model th[data-sort]")) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
  for (const row of rows()) if (below(row)) open(row, $("button.open", row));
  const key = r => by === "name" ? r.dataset.text : parseFloat(r.dataset[by]);
  const order = (p, q) => (p < q ? -1 : p > q ? 1 : 0) * (down ? -1 : 1);
  body.append(...rows().sort((a, b) => order(key(a), key(b))));
}
for (const th of document.querySelectorAll("table.model th[data-sort]"))
  $("button", th).addEventListener("click", () => sort(th));

// -- the appendix and the theme

const table = $("#all-families");
table?.addEventListener("toggle", () => {
  const heads = [...table.querySelectorAll("thead th")].map(th => th.textContent.trim());
  const cells = f => [f.kind, String(f.size), f.defect, f.evidence, f.text, f.reason];
  const styles = ["", "number", "number", "", "", "why"];
  const row = f => node("tr", {}, node("th", { scope: "row" }, node("code", {}, f.name)),
    ...cells(f).map((text, k) => node("td", { class: styles[k], "data-label": heads[k + 1] }, text)));
  $("tbody", table).append(...data.families.map(row));
}, { once: true });

const root = document.documentElement;
function themed(theme) {
  root.dataset.theme = theme;
  const drawn = [...document.querySelectorAll("canvas.strip")].filter(c => c.dataset.strip && c.width !== 300);
  for (const c of drawn) strip(c, c.dataset.strip);
}
const chosen = value => {  // outlives a reload, where files may store anything
  try { return value ? sessionStorage.setItem("theme", value) : sessionStorage.getItem("theme"); } catch { return null; }
};
if (chosen()) themed(chosen());
$("#theme")?.addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  themed((root.dataset.theme ? root.dataset.theme === "dark" : dark) ? "light" : "dark");
  chosen(root.dataset.theme);
});

// -- a page that follows a run is loaded anew, until someone has begun to use it

if (root.dataset.refresh) {
  const button = node("button", { type: "button" });
  let next;
  const follow = on => {
    clearTimeout(next);
    if (on) next = setTimeout(() => location.reload(), 1000 * root.dataset.refresh);
    button.setAttribute("aria-pressed", on);
    button.textContent = on ? "Following the run" : "Paused: follow the run";
  };
  button.addEventListener("click", () => follow(button.getAttribute("aria-pressed") === "false"));
  for (const event of ["pointerdown", "keydown", "input"])
    addEventListener(event, e => { if (e.target !== button && e.target.id !== "theme") follow(false); });
  $("#theme").before(button);
  follow(true);
}
addEventListener("beforeprint", () => {
  for (const d of document.querySelectorAll("details")) if (d.id !== "all-families") d.open = true;
  for (const element of [...waiting.keys()]) drawn(element);
});
