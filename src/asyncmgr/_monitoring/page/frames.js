// One frame for all that has changed; once a second what moves with time
let pending = 0, all = false;
const soon = () => { if (!pending) pending = requestAnimationFrame(frame); };
const redraw = () => { all = true; soon(); };
const frame = () => {
  pending = 0; readNow();
  if (dirtyNeeds && !pressing) { const height = $("needs").offsetHeight; showNeeds(); if ($("needs").offsetHeight !== height) measure(); }
  if (dirtyView && !pressing) { makeView(); all = true; }
  if (all) { paintAxis(); for (const el of drawn.values()) if (el.parts) fill(el); }
  else for (const el of drawn.values()) if (el.parts && el.item.kind === "task" && el.item.task.dirty) fill(el);
  all = false;
};
const second = () => {
  readNow(); watchConnection();
  put($("clock"), `${clock(now)} ${S.zone === "local" ? "" : S.zone.length > 5 ? "" : S.zone}`); $("clock").title = S.zone;
  if (!document.hidden && !lost) { sayNeeds(); if (U.task) drawer.tick(); redraw(); }
  setTimeout(second, 1000 - ((Date.now() + skew) % 1000));
};
const forget = () => {
  const from = now - U.span * 1000 * 1.02;
  for (const task of S.tasks.values()) for (const [host, list] of task.marks) {
    let i = 0; while (i < list.length && list[i][0] + list[i][1] < from) i++;
    if (i > 50) task.marks.set(host, list.slice(i));
  }
  for (const [host, list] of S.journal) S.journal.set(host, list.filter(e => (e.until || e.at) >= from));
  dirtyNeeds = true;
};
setInterval(forget, 30000);
addEventListener("scroll", () => { tip.style.display = "none"; scrolled(); }, { passive: true });
addEventListener("resize", () => { dirtyView = true; soon(); });
for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) matchMedia(query).addEventListener("change", readColours);
const given = new URLSearchParams(location.hash.slice(1));
if (spanButtons[given.get("span")]) setSpan(+given.get("span"), true);
if (filterButtons[given.get("show")]) setFilter(given.get("show"));
U.q = $("q").value = given.get("q") || "";
let wantedTask = given.get("task") || "";
const completed = take.complete;
take.complete = () => { completed(); if (wantedTask) { drawer.open(wantedTask); wantedTask = ""; } };
let kept; try { kept = localStorage.getItem("asyncmgr-theme"); } catch { /* not allowed here */ }
setTheme(kept === "light" || kept === "dark" ? kept : "");
connect(); second();
