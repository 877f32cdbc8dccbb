// Taking in what the service tells
const taskOf = name => {
  let task = S.tasks.get(name);
  if (!task) {
    const dot = name.lastIndexOf(".");
    task = { name, group: dot < 0 ? "" : name.slice(0, dot), on: new Map(), marks: new Map(), dirty: true, order: S.tasks.size };
    S.tasks.set(name, task);
    dirtyView = true;
  }
  return task;
};
const hostOf = name => {
  if (!S.hosts.has(name)) { S.hosts.set(name, { host: name, ok: true, lag: [] }); dirtyView = true; }
  return S.hosts.get(name);
};
const addMarks = (task, host, base, marks) => {
  let list = task.marks.get(host);
  if (!list) task.marks.set(host, (list = []));
  let sorted = true;
  for (const mark of marks) {
    const one = [mark[0] + base, mark[1], mark[2], mark[3] || 1, mark[4] || "", mark[5] || 0], end = list[list.length - 1];
    if (end && one[0] <= end[0]) sorted = false;
    list.push(one);
  }
  if (!sorted) {
    list.sort((a, b) => a[0] - b[0]);
    // Slots without a run grow: the one with more of them is the newer.
    let kept = 0;
    for (const one of list) {
      let same = -1;
      for (let i = kept - 1; i >= 0 && Math.abs(list[i][0] - one[0]) < 2; i--) if (list[i][2] === one[2]) { same = i; break; }
      if (same < 0) list[kept++] = one; else if (one[3] >= list[same][3]) list[same] = one;
    }
    list.length = kept;
  }
  task.dirty = true;
};
const take = {
  hello(m) {
    skew = m.now - Date.now(); readNow();
    if (m.life !== S.life || !m.goes_on) { S.tasks.clear(); S.hosts.clear(); S.journal.clear(); complete = false; }
    Object.assign(S, { life: m.life, service: m.service, host: m.host, fates: m.fates, verbs: m.verbs, state: m.state });
    setZone(m.zone);
    Object.assign(hostOf(m.host), { version: m.version, since: m.since, state: m.state, ok: true });
    put($("name"), line(m.service, 80)); document.title = line(m.service, 80);
    document.body.classList.toggle("can", m.verbs);
    dirtyNeeds = dirtyView = true;
  },
  tasks(m) {
    hostOf(m.host);
    for (const facts of m.tasks) {
      const task = taskOf(facts.task), before = task.on.get(m.host);
      task.on.set(m.host, facts); task.dirty = true;
      if (!before) dirtyView = true;
      if (facts.need || before?.need) dirtyNeeds = true;
      if (U.filter !== "all") dirtyView = true;
      if (task.name === U.task) drawer.changed();
    }
    dirtyNeeds = true;
  },
  gone(m) {
    for (const name of m.tasks) {
      const task = S.tasks.get(name);
      if (task && task.on.delete(m.host) && !task.on.size) S.tasks.delete(name);
    }
    dirtyView = dirtyNeeds = true;
  },
  marks(m) { for (const name in m.rows) addMarks(taskOf(name), m.host, m.base, m.rows[name]); },
  journal(m) {
    let list = S.journal.get(m.host);
    if (!list) S.journal.set(m.host, (list = []));
    const known = new Set(list.map(e => e.at + e.kind + (e.task || "")));
    for (const entry of m.entries) if (!known.has(entry.at + entry.kind + (entry.task || ""))) list.push(entry);
    list.sort((a, b) => a.at - b.at);
    dirtyNeeds = true; redraw();
  },
  tick(m) {
    if (Math.abs(m.now - Date.now() - skew) > 400) skew = m.now - Date.now();
    const host = hostOf(S.host);
    host.lag.push([m.now, m.lag]);
    if (host.lag.length > 4000) host.lag.splice(0, 1000);
    if (host.trouble !== m.trouble) { host.trouble = m.trouble; dirtyNeeds = true; }
  },
  host(m) {
    if (m.gone) { S.hosts.delete(m.host); S.journal.delete(m.host); for (const t of S.tasks.values()) { if (!isShared(t)) t.marks.delete(m.host); t.on.delete(m.host); if (!t.on.size) S.tasks.delete(t.name); } dirtyView = true; }
    else { const host = hostOf(m.host); host.silent = host.error = undefined; Object.assign(host, m); }
    dirtyNeeds = true;
  },
  complete() { complete = true; redraw(); },
};
