// While somebody presses a button nothing under the pointer is replaced or moved: the click would be lost.
let pressing = false;
addEventListener("pointerdown", () => (pressing = true), true);
const released = () => setTimeout(() => { pressing = false; if (drawer.late) drawer.show(); soon(); });
for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, released, true);

// The card at the top
let needLines = [], needKey = "", showAll = false;
const VERB = { trigger: "Run now", cancel: "Cancel run" };
const showNeeds = () => {
  dirtyNeeds = false;
  const { list, count } = needs(), total = S.tasks.size, over = earlier();
  const key = JSON.stringify([list.map(n => [n.name, n.host, n.icon, n.verb]), total, over, S.verbs, showAll, U.span]);
  put(filterButtons.need, `Needs you ${count}`);
  if (key === needKey) { needLines.forEach((one, i) => { one.parts = list[i]?.parts || one.parts; }); sayNeeds(); return; }
  needKey = key;
  const card = $("needs"), open = card.querySelector("details")?.open;
  const some = count || list.length, title = !S.life ? "Asking …" : list.length ? `${some} ${count ? "task" : "host"}${some > 1 ? "s need" : " needs"} you` : total === 1 ? "The one task is well" : total ? `All ${many(total)} tasks are well` : "No tasks";
  const rest = count && total > count ? `the other ${total - count} ${total - count > 1 ? "are" : "is"} well` : list.length && !count ? `all ${total} tasks are well` : "";
  card.replaceChildren(h("h2", h("i", { class: list.length ? "w" : "" }), h("span", title), h("small", rest)));
  needLines = [];
  const shown = showAll ? list : list.slice(0, 6);
  for (const one of shown) {
    const say = h("p"), open = one.task ? () => drawer.open(one.task.name, one.host) : null;
    const button = S.verbs && one.verb && h("button", { class: one.verb === "cancel" ? "red" : "", "data-verb": one.verb, disabled: lost, onclick: e => { e.stopPropagation(); act(one.verb, one.task.name, one.host, button); } }, VERB[one.verb]);
    card.append(h("div", { class: "need " + (one.bad ? "bad" : "warn"), onclick: open || (() => {}) }, h("span.ic", { "aria-hidden": "true" }, one.icon),
      open ? h("button.name", { title: line(one.name) }, line(one.name)) : h("b", line(one.name)), say, button || h("span")));
    needLines.push({ say, parts: one.parts });
  }
  if (list.length > shown.length || showAll && list.length > 6) card.append(h("button", { id: "more", onclick: () => { showAll = !showAll; showNeeds(); } }, showAll ? "Show fewer" : `Show ${list.length - shown.length} more`));
  if (over.length) {
    const span = { 900: "in these 15 minutes", 3600: "this hour", 21600: "in these 6 hours", 86400: "in these 24 hours" }[U.span];
    const phrases = new Map();
    for (const [, few] of over) phrases.set(few, (phrases.get(few) || 0) + 1);
    const first = [...phrases].slice(0, 3).map(([few, n]) => (n > 1 ? `${few} (${n} times)` : few)), more = phrases.size > 3 ? `, and ${phrases.size - 3} more` : "";
    card.append(h("details", { open: !!open }, h("summary", `Earlier ${span}: ${first.join(", ")}${more}`),
      h("ul", over.slice(0, 100).map(([at, , text]) => h("li", h("time", when(at)), text)))));
  }
  sayNeeds();
};
const sayNeeds = () => { for (const one of needLines) put(one.say, sentence(one.parts)); };
// What is over, newest first: [moment, in a few words, in full]
const earlier = () => {
  const from = now - U.span * 1000, found = [];
  for (const list of S.journal.values()) for (const e of list) if (e.say && (e.until || e.at) >= from) found.push([e.at, line(e.say[0], 90), e.say[1]]);
  for (const task of S.tasks.values()) {
    let count = 0, at = 0, well = false;
    for (const list of task.marks.values()) for (const m of list) if (m[2] < FAILED && m[0] > at) well = true; else if ((m[2] === FAILED || m[2] === TIMED_OUT) && m[0] >= from) { count += m[3]; at = Math.max(at, m[0]); well = false; }
    if (count && !worst(task)?.facts.need) { const n = line(task.name, 80); found.push([at, `${n} failed`, `${n} failed ${count === 1 ? "once" : count + " times"}${well ? " and is well again" : ""}`]); }
  }
  return found.sort((a, b) => b[0] - a[0]);
};
