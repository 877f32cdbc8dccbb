// The rows: only those in sight exist
let view = [], total = 0, drawn = new Map(), pool = [], top0 = 0, narrow = false;
const failing = task => { for (const f of task.on.values()) if (["failing", "held"].includes(f.state) || (f.failures || 0) > 0) return true; return false; };
const needing = task => !!worst(task)?.facts.need;
const makeView = () => {
  dirtyView = false;
  narrow = matchMedia("(max-width: 700px)").matches;
  const row = narrow ? 64 : 39, group = 36, wanted = U.q.toLowerCase();
  view = []; total = 4;
  const push = (kind, key, more, height) => { view.push({ kind, key, y: total, height, ...more }); total += height; };
  if (U.filter === "all" && !wanted) {
    push("group", "g:", { text: S.hosts.size > 1 ? "event loops" : "event loop" }, group);
    for (const host of [...S.hosts.values()].sort((a, b) => a.host < b.host ? -1 : 1)) push("loop", "h:" + host.host, { host }, row);
  }
  let last = null, count = 0;
  const tasks = [...S.tasks.values()].filter(t => t.on.size).sort((a, b) => a.order - b.order), groups = new Map();
  for (const task of tasks) {
    if (U.filter === "need" && !needing(task) || U.filter === "fail" && !failing(task) || wanted && !task.name.toLowerCase().includes(wanted)) continue;
    (groups.get(task.group) || groups.set(task.group, []).get(task.group)).push(task);
  }
  for (const [name, list] of groups) {
    push("group", "g:" + name, { text: name }, group);
    for (const task of list) { push("task", "t:" + task.name, { task, at: ++count }, row); last = task; }
  }
  rows.style.height = `${total + 10}px`;
  for (const item of view) item.of = count;
  $("none").hidden = !!last || !complete;
  put($("none"), U.q ? `No task matches “${line(U.q)}”.` : U.filter === "all" ? "This service has no tasks." : U.filter === "need" ? "Nothing needs you." : "Nothing fails.");
  const n = S.tasks.size, hosts = S.hosts.size;
  put($("sum"), `${hosts} host${hosts === 1 ? "" : "s"}, ${n} task${n === 1 ? "" : "s"}${S.state && S.state !== "running" ? `, ${S.state}` : ""}`);
  for (const [key, el] of drawn) { el.remove(); pool.push(el); drawn.delete(key); }
  measure(); scrolled();
};
let trackWidth = 0, dpr = 1;
const measure = () => {
  document.documentElement.style.setProperty("--head", `${document.querySelector("header").offsetHeight}px`);
  top0 = rows.getBoundingClientRect().top + scrollY;
  trackWidth = document.querySelector("#axis div").clientWidth;
  dpr = Math.min(devicePixelRatio || 1, 3);
};
const makeRow = () => {
  const canvas = h("canvas", { "aria-hidden": "true" });
  const el = h("div.row", { role: "option" }, h("span.ic", { "aria-hidden": "true" }), h("span.nm", h("b"), h("small")), h("span.tr", canvas), h("span.st"), h("span.cd"), h("span.act"));
  const [ic, nm, tr, st, cd, acts] = el.children;
  el.parts = { ic, nm: nm.children[0], sub: nm.children[1], tr, st, cd, acts, canvas };
  el.addEventListener("click", e => {
    const item = el.item;
    if (item.kind !== "task" || e.target.closest("button")) return;
    const hit = tr.contains(e.target) && hitAt(item, e.clientX, e.clientY, canvas);
    U.cursor = item.key;
    drawer.open(item.task.name, hit?.host, hit?.at);
  });
  return el;
};
const scrolled = () => {
  const from = scrollY - top0 - 240, to = scrollY - top0 + innerHeight + 240;
  let low = 0, high = view.length;
  while (low < high) { const mid = (low + high) >> 1; if (view[mid].y + view[mid].height < from) low = mid + 1; else high = mid; }
  const keep = new Set();
  const fresh = [];
  for (let i = low; i < view.length && view[i].y < to; i++) { keep.add(view[i].key); if (!drawn.has(view[i].key)) fresh.push(view[i]); }
  for (const [key, el] of drawn) if (!keep.has(key)) { drawn.delete(key); if (el.parts) pool.push(el); else el.remove(); }
  for (const item of fresh) {
    let el;
    if (item.kind === "group") el = h("div.group", { role: "presentation" }, line(item.text, 80));
    else { el = pool.pop() || makeRow(); while (el && !el.parts) el = pool.pop() || makeRow(); }
    el.item = item;
    el.style.transform = `translateY(${item.y}px)`; el.style.height = `${item.height}px`;
    drawn.set(item.key, el);
    if (item.kind !== "group") { el.id = "r" + item.y; fill(el); }
    if (!el.isConnected) rows.append(el);
  }
  for (const el of pool) if (el.isConnected) el.remove();
};
const fill = el => {
  const { item, parts } = el;
  if (item.kind === "loop") fillLoop(el, item.host); else fillTask(el, item.task, item);
  aria(el, "selected", item.key === U.cursor);
  paint(el);
  if (parts.acts.childElementCount && item.kind === "loop") parts.acts.replaceChildren();
};
const fillTask = (el, task, item) => {
  const one = worst(task), p = el.parts;
  if (!one) return;
  const [icon, tone] = LOOK[one.state] || LOOK.ok, [text, textTone] = standing(one), next = nextOf(task);
  put(p.ic, icon); cls(p.ic, "ic t-" + tone);
  put(p.nm, line(task.name)); p.nm.title = line(task.name);
  const hosts = [...task.on.keys()], where = S.hosts.size < 2 ? "" : one.facts.owner ? ` · ${line(ownerOf(one.facts), 40)} · cluster` : hosts.length === 1 ? ` · ${line(hosts[0], 40)}` : ` · ${hosts.length} hosts`;
  put(p.sub, line(one.facts.schedule || "every pass") + where);
  put(p.st, text); cls(p.st, "st t-" + textTone);
  put(p.cd, next === Infinity ? "" : countdown(next)); cls(p.cd, next - now < 10500 ? "cd soon" : "cd");
  aria(el, "label", `${line(task.name)}, ${text}${next === Infinity ? "" : ", next in " + countdown(next)}`);
  aria(el, "posinset", item.at); aria(el, "setsize", item.of);
  if (S.verbs && p.acts.dataset.of !== task.name + one.state) {
    p.acts.dataset.of = task.name + one.state;
    const make = (verb, label) => h("button", { tabindex: "-1", "data-verb": verb, disabled: lost, onclick: e => act(verb, task.name, one.host, e.currentTarget) }, label);
    p.acts.replaceChildren(make("trigger", "▶ Run now"), one.state === "paused" ? make("resume", "Resume") : make("pause", "‖ Pause"));
  }
};
const fillLoop = (el, host) => {
  const p = el.parts, blocks = (S.journal.get(host.host) || []).filter(e => e.kind === "blocked" && e.at > now - U.span * 1000), last = blocks[blocks.length - 1];
  put(p.ic, "●"); cls(p.ic, "ic t-" + (!host.ok || host.trouble ? "bad" : "ok"));
  put(p.nm, line(host.host)); p.nm.title = "";
  put(p.sub, [host.version && `asyncmgr ${line(host.version, 20)}`, host.since && `up ${long(now - host.since)}`].filter(Boolean).join(" · "));
  const say = !host.ok ? ["silent, " + long(now - host.silent), "bad"] : last ? [`${long((last.data?.seconds || 0) * 1000 || last.until - last.at)} block, ${brief(now - last.at)} ago`, "bad"] : [host.state && host.state !== "running" ? host.state : "keeps time", "mute"];
  put(p.st, say[0]); cls(p.st, "st t-" + say[1]);
  const lag = host.lag[host.lag.length - 1];
  put(p.cd, lag ? `lag ${Math.round(lag[1])} ms` : host.took ? `${Math.round(host.took)} ms` : ""); cls(p.cd, "cd");
  p.cd.title = lag ? "How late the event loop runs a timer" : "How long an answer took";
  aria(el, "label", `event loop of ${line(host.host)}, ${say[0]}`);
};
