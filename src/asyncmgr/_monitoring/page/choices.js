// What the person chooses; kept in the address, so that a link shows the same
const filterButtons = {}, spanButtons = {};
const keepUrl = () => {
  const p = new URLSearchParams();
  if (U.span !== 3600) p.set("span", U.span); if (U.filter !== "all") p.set("show", U.filter); if (U.q) p.set("q", U.q); if (U.task) p.set("task", U.task);
  history.replaceState(null, "", p.size ? "#" + p : location.pathname + location.search);
};
const setFilter = filter => { U.filter = filter; for (const [f, b] of Object.entries(filterButtons)) press(b, f === filter); dirtyView = true; keepUrl(); scrollUp(); soon(); };
const setSpan = (span, quiet) => { U.span = span; for (const [s, b] of Object.entries(spanButtons)) press(b, +s === span); keepUrl(); if (!quiet) { lastId = ""; S.life = ""; connect(); redraw(); } };
const scrollUp = () => { if (scrollY > top0 - 120) scrollTo(0, Math.max(0, top0 - 120)); };
for (const [f, text] of [["all", "All"], ["need", "Needs you"], ["fail", "Failing only"]]) $("filters").append((filterButtons[f] = h("button", { "aria-pressed": f === "all", onclick: () => setFilter(f) }, text)));
const SPANS = [[900, "15m"], [3600, "1h"], [21600, "6h"], [86400, "24h"]];
for (const [s, text] of SPANS) $("spans").append((spanButtons[s] = h("button", { "aria-pressed": s === 3600, onclick: () => setSpan(s) }, text)));
$("q").addEventListener("input", () => { U.q = $("q").value.trim(); dirtyView = true; keepUrl(); scrollUp(); soon(); });
const setTheme = theme => { U.theme = theme; if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme; readColours(); };
const nextTheme = () => {
  const dark = U.theme ? U.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(dark ? "light" : "dark");
  try { localStorage.setItem("asyncmgr-theme", U.theme); } catch { /* not allowed here */ }
};
$("theme").addEventListener("click", nextTheme); $("help").addEventListener("click", showHelp);
const move = by => {
  const items = view.filter(i => i.kind === "task");
  if (!items.length) return;
  const at = items.findIndex(i => i.key === U.cursor), item = items[Math.max(0, Math.min(items.length - 1, at < 0 ? 0 : at + by))];
  U.cursor = item.key;
  const y = top0 + item.y, head = 90;
  if (y < scrollY + head) scrollTo(0, y - head); else if (y + item.height > scrollY + innerHeight - 10) scrollTo(0, y + item.height - innerHeight + 10);
  scrolled();
  for (const [key, el] of drawn) if (el.parts) aria(el, "selected", key === U.cursor);
  aria(rows, "activedescendant", "r" + item.y); focusOn(rows);
  if (U.task) { drawer.open(item.task.name); focusOn(rows); }
};
document.addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey || $("ask").open) return;
  const typing = e.target.matches("input, textarea");
  if (e.key === "Escape") { if (typing) { $("q").value = U.q = ""; dirtyView = true; keepUrl(); e.target.blur(); soon(); } else drawer.close(); return; }
  if (typing) { if (e.key === "Enter" || e.key === "ArrowDown") { e.preventDefault(); U.cursor = ""; move(0); } return; }
  const cursor = () => { const name = U.task || (U.cursor.startsWith("t:") ? U.cursor.slice(2) : ""), task = S.tasks.get(name); return task && { name, host: U.task ? U.host : worst(task).host, facts: worst(task).facts }; };
  const inButton = e.target.matches("button, summary, a");
  const verb = v => { const one = cursor(); if (one) act(v, one.name, one.host); };
  const keys = {
    "/": () => { $("q").focus(); $("q").select(); }, j: () => move(1), k: () => move(-1), ArrowDown: !inButton && e.target !== drawer.el && (() => move(1)), ArrowUp: !inButton && e.target !== drawer.el && (() => move(-1)),
    Enter: !inButton && (() => { const one = cursor(); if (one) drawer.open(one.name, one.host); }), a: () => setFilter("all"), n: () => setFilter("need"), f: () => setFilter("fail"),
    r: () => verb("trigger"), p: () => verb(cursor()?.facts.paused ? "resume" : "pause"), c: () => verb("cancel"), t: nextTheme, "?": showHelp,
  };
  for (const span of SPANS) keys[1 + SPANS.indexOf(span)] = () => setSpan(span[0]);
  if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
});
