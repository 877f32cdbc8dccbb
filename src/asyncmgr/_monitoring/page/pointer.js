// What is under the pointer
const hitAt = (item, clientX, clientY, canvas) => {
  const box = canvas.getBoundingClientRect(), x = clientX - box.left, t = now + ((x - box.width * NOW) / (box.width * NOW)) * U.span * 1000, reach = (4 / (box.width * NOW)) * U.span * 1000;
  if (item.kind === "loop") {
    const e = (S.journal.get(item.host.host) || []).find(one => t > one.at - reach && t < (one.until || one.at) + reach);
    return e && { text: `${e.say?.[1] || e.kind}, at ${when(e.at)}` };
  }
  const lanes = lanesOf(item.task), lane = lanes[Math.max(0, Math.min(lanes.length - 1, Math.floor(((clientY - box.top) / box.height) * lanes.length)))];
  let best, distance = Infinity;
  for (const host of lane?.hosts || []) {
    const facts = item.task.on.get(host), list = item.task.marks.get(host) || [];
    if (facts?.running && t > facts.running.since && t < now + reach) return { host, text: `Running${on(host)} since ${when(facts.running.since)}, ${long(now - facts.running.since)}.${facts.running.where ? ` It waits in ${facts.running.where}.` : ""}` };
    if (facts?.paused && t > facts.paused.since && t < now) { best = { host, text: `${pausedText(facts.paused).replace("p", "P")}, since ${when(facts.paused.since)}.` }; continue; }
    for (let i = firstAfter(list, t - reach - 1000); i < list.length && list[i][0] <= t + reach; i++) {
      const m = list[i], end = m[2] >= RUNS ? spanEnd(m, facts) : m[0] + m[1];
      if (end < t - reach || S.fates[m[2]][1] === "not_owner") continue;
      const off = t < m[0] ? m[0] - t : t > end ? t - end : 0;
      if (off < distance || (off === distance && m[2] !== SUCCEEDED)) { distance = off; best = { host, at: m[3] === 1 || m[2] >= RUNS ? m[0] - m[5] : 0, text: markText(m, host) }; }
    }
  }
  if (!best && t > now) { const next = nextOf(item.task); if (next < Infinity) return { text: `The next slot is at ${when(next)}, ${until(next)}.` }; }
  return best;
};
const markText = (m, host) => {
  const [fate, reason, , , words] = S.fates[m[2]];
  if (reason) return m[3] === 1 ? `The slot of ${when(m[0])}${on(host)} was ${fate}: ${words}.` : `${many(m[3])} slots from ${when(m[0])} to ${when(m[0] + m[1])}${on(host)} were ${fate}: ${words}.`;
  if (m[3] > 1) return `${many(m[3])} runs from ${when(m[0])} to ${when(m[0] + m[1])} succeeded${on(host)}.`;
  return `The slot of ${when(m[0] - m[5])} ran${on(host)} and ${words} ${long(m[1])}${m[4] ? `: ${m[4]}` : ""}${m[5] > 1000 ? `, ${long(m[5])} late` : ""}.`;
};
const tip = $("tip");
rows.addEventListener("mousemove", e => {
  const el = e.target.closest(".row"), hit = el && el.parts.tr.contains(e.target) && hitAt(el.item, e.clientX, e.clientY, el.parts.canvas);
  tip.style.display = hit ? "block" : "none";
  if (!hit) return;
  put(tip, clean(hit.text, 400));
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(e.clientX + 12, innerWidth - box.width - 8))}px`;
  tip.style.top = `${e.clientY + 16 + box.height > innerHeight ? e.clientY - box.height - 10 : e.clientY + 16}px`;
});
rows.addEventListener("mouseleave", () => (tip.style.display = "none"));
