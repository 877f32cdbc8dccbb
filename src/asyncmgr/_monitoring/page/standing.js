// How a task stands, over all its hosts
// The worst first
const LOOK = {
  hung: ["!", "warn"], failing: ["✕", "bad"], held: ["⊘", "bad"], stale: ["◷", "bad"], skips: ["»", "warn"], running: ["▶", "run"],
  paused: ["‖", "slate"], disabled: ["○", "mute"], new: ["·", "mute"], ok: ["✓", "ok"],
};
const ORDER = Object.keys(LOOK);
const stateOf = facts => (facts.need?.kind === "skips" ? "skips" : facts.state);
// A task that one process of many runs stands as its owner says.
const isShared = task => [...task.on.values()].some(facts => facts.owner);
const ownerOf = facts => facts.owner?.replace(/~[0-9a-f]+$/, "");
const worst = task => {
  let found, rank = 99;
  for (const [host, facts] of task.on) if (facts.owner && ownerOf(facts) === host) return { host, facts, state: stateOf(facts) };
  for (const [host, facts] of task.on) {
    const one = ORDER.indexOf(stateOf(facts));
    if (one < rank || (one === rank && facts.running && !found.facts.running)) { rank = one; found = { host, facts, state: stateOf(facts) }; }
  }
  return found;
};
const standing = ({ facts, state }) => {
  const last = facts.last;
  if (state === "hung") return ["hangs, " + long(now - facts.running.since), "warn"];
  if (state === "failing") return [facts.failures > 1 ? `failed ${facts.failures} in a row` : `failed ${last ? ago(last.end) : ""}`, "bad"];
  if (state === "held") return [`held back after ${facts.failures}`, "bad"];
  if (state === "stale") return [facts.success ? `no success, ${long(now - facts.success)}` : "no success yet", "bad"];
  if (state === "skips") return [`skips, ${facts.counts[1]} so far`, "warn"];
  if (state === "paused") return [facts.paused?.until ? `paused to ${when(facts.paused.until, false)}` : "paused", "slate"];
  if (state === "disabled") return ["switched off", "mute"];
  if (facts.running) {
    const p = facts.running.progress, part = p && p[1] ? `, ${Math.min(100, Math.round((p[0] / p[1]) * 100))} %` : "";
    if (part || now - facts.running.since > 2000 || !last) return [`running ${long(Math.max(0, now - facts.running.since))}${part}`, "run"];
  }
  if (!last) return ["not run yet", "mute"];
  return [`${last.fate === "succeeded" ? "ok" : last.fate === "nothing" ? "nothing to do" : last.fate}, ${ago(last.end)}`, "mute"];
};
const nextOn = (host, f) => { // what another host told may be some seconds old
  const step = (f.spacing || 0) * 1000;
  return !f.next ? Infinity : f.next < now && step && host !== S.host ? f.next + Math.ceil((now - f.next) / step) * step : f.next;
};
const nextOf = task => Math.min(...[...task.on].map(([host, f]) => nextOn(host, f)));
const began = facts => facts.failing || facts.running?.since || 0;
const needs = () => {
  const list = [];
  for (const host of S.hosts.values()) {
    if (!host.ok) list.push({ name: host.host, bad: true, icon: "⌁", parts: ["Has not answered since ", ["at", host.silent], `: ${host.error}. What is shown of it is old.`] });
    else if (host.trouble) list.push({ name: host.host, bad: true, icon: "⌁", parts: [`${host.trouble[0].toUpperCase()}${host.trouble.slice(1)}.`] });
  }
  const found = [];
  for (const task of S.tasks.values()) {
    const one = worst(task);
    if (one?.facts.need) found.push({ task, ...one, need: one.facts.need });
  }
  found.sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || began(a.facts) - began(b.facts));
  for (const one of found) list.push({ name: one.task.name, task: one.task, host: one.host, bad: LOOK[one.state][1] === "bad", icon: LOOK[one.state][0], parts: one.need.text, verb: one.need.verb });
  return { list, count: found.length };
};
