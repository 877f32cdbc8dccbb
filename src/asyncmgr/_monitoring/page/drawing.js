// Drawing
const C = {};
const probe = document.body.appendChild(h("i", { hidden: true }));
const readColours = () => {
  for (const name of ["lane", "lane2", "grid", "ok", "bad", "warn", "run", "sleep", "slate", "gone", "text", "mute", "faint", "card", "shade"]) {
    probe.style.color = `var(--${name})`; C[name] = getComputedStyle(probe).color;
  }
  hatches.clear(); redraw();
};
const hatches = new Map();
const hatch = (ctx, colour) => {
  const key = colour + dpr;
  if (!hatches.has(key)) {
    const tile = document.createElement("canvas"), size = Math.round(6 * dpr);
    tile.width = tile.height = size;
    const c = tile.getContext("2d");
    c.fillStyle = colour; c.globalAlpha = .12; c.fillRect(0, 0, size, size); c.globalAlpha = 1;
    c.strokeStyle = colour; c.lineWidth = dpr; c.beginPath();
    for (const d of [-size, 0, size]) { c.moveTo(d - 1, size + 1); c.lineTo(d + size + 1, -1); }
    c.stroke();
    const pattern = ctx.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix().scale(1 / dpr));
    hatches.set(key, pattern);
  }
  return hatches.get(key);
};
const NOW = .908;
const xOf = (t, width) => width * NOW + ((t - now) / (U.span * 1000)) * width * NOW;
const STEPS = [MIN, 2 * MIN, 5 * MIN, 10 * MIN, 15 * MIN, 30 * MIN, HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 6 * HOUR];
const ticks = width => {
  const perMs = (width * NOW) / (U.span * 1000), step = STEPS.find(s => s * perMs > 66) || 6 * HOUR, list = [];
  for (let t = Math.ceil((now - U.span * 1000) / step) * step; xOf(t, width) < width; t += step) list.push(t);
  return list;
};
const sized = (canvas, width, height) => {
  const w = Math.round(width * dpr), ht = Math.round(height * dpr);
  if (canvas.width !== w || canvas.height !== ht) { canvas.width = w; canvas.height = ht; }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(dpr, 0, 0, dpr, 0, 0); ctx.clearRect(0, 0, width, height);
  return ctx;
};
const FONT = '11px system-ui, "Segoe UI", "DejaVu Sans", sans-serif';
const box = (ctx, colour, x, y, width, height) => { ctx.fillStyle = colour; ctx.fillRect(x, y, width, height); };
const label = (ctx, text, x, y, colour, room) => {
  if (room < 40) return;
  ctx.font = FONT;
  let shown = line(text, 80), width = ctx.measureText(shown).width;
  if (width > room - 8) {
    let n = Math.floor((shown.length * (room - 16)) / width);
    if (n < 3) return;
    shown = shown.slice(0, n) + "…"; width = ctx.measureText(shown).width;
  }
  ctx.fillStyle = C.card; ctx.globalAlpha = .88; ctx.fillRect(x + 2, y - 7, width + 6, 14); ctx.globalAlpha = 1;
  ctx.fillStyle = colour; ctx.textBaseline = "middle"; ctx.textAlign = "left"; ctx.fillText(shown, x + 5, y + .5);
};
// Of a task that one process of many runs, what a host did that is gone now stays in the one lane.
const lanesOf = task => isShared(task) ? [{ hosts: [...new Set([...task.on.keys(), ...task.marks.keys()])] }] : [...task.on.keys()].sort().map(host => ({ hosts: [host] }));
const firstAfter = (list, t) => { // marks are sorted by their begin; a long one may begin well before
  let low = 0, high = list.length;
  while (low < high) { const mid = (low + high) >> 1; if (list[mid][0] < t) low = mid + 1; else high = mid; }
  while (low > 0 && list[low - 1][0] + list[low - 1][1] >= t) low--;
  return Math.max(0, low - 1);
};
const spanEnd = (m, facts) => m[0] + m[1] + (m[3] > 1 ? m[1] / (m[3] - 1) : Math.min((facts?.spacing || 0) * 1000, 60000));
const reasonText = (m, facts) => {
  const [fate, reason, , brief] = S.fates[m[2]];
  if (reason === "paused" && facts?.paused) return pausedText(facts.paused);
  if (reason === "backoff") return `held back${facts?.failures ? `: ${facts.failures} failures in a row` : ""}`;
  return `${fate} ${many(m[3])}: ${brief}`;
};
const pausedText = p => `paused by ${p.by}${p.note ? `: ${p.note}` : ""}`;
const unknown = (ctx, x, y, height) => { ctx.globalAlpha = .35; box(ctx, hatch(ctx, C.gone), 0, y, x, height); ctx.globalAlpha = 1; };
const cross = (ctx, x, y, r, colour) => { ctx.strokeStyle = colour; ctx.lineWidth = 1.7; ctx.beginPath(); ctx.moveTo(x - r, y - r); ctx.lineTo(x + r, y + r); ctx.moveTo(x + r, y - r); ctx.lineTo(x - r, y + r); ctx.stroke(); };
const ground = (ctx, width, y, height) => {
  box(ctx, C.lane, 0, y, width * NOW, height);
  box(ctx, C.lane2, width * NOW, y, width, height);
};
const lines = (ctx, width, height) => { ctx.fillStyle = C.grid; for (const t of ticks(width)) ctx.fillRect(Math.round(xOf(t, width)), 0, 1, height); };
const nowLine = (ctx, width, height) => { box(ctx, C.text, Math.round(width * NOW), 0, 1, height); };
const paint = el => {
  const width = el.parts.tr.clientWidth || trackWidth, height = el.item.kind === "task" || !narrow ? 26 : 24, ctx = sized(el.parts.canvas, width, height);
  el.painted = now;
  if (el.item.kind === "loop") paintLoop(ctx, el.item.host, width, height); else paintTask(ctx, el.item.task, width, height);
  nowLine(ctx, width, height);
};
const paintTask = (ctx, task, width, height) => {
  task.dirty = false;
  const lanes = lanesOf(task), gap = lanes.length > 1 ? 1 : 0, lane = height / lanes.length, t0 = now - U.span * 1000;
  lanes.forEach((_, i) => ground(ctx, width, i * lane, lane - gap));
  lines(ctx, width, height);
  const labels = [];
  lanes.forEach(({ hosts }, i) => { for (const host of hosts) paintLane(ctx, task, host, width, i * lane, lane - gap, t0, labels, hosts.length > 1); });
  const said = []; // narrow lanes say the same thing once, in the middle
  for (const one of labels) {
    if (lane < 13 && lanes.length > 1) {
      if (said.some(([text, x]) => text === one[0] && Math.abs(x - one[1]) < 80)) continue;
      said.push(one);
      one[2] = height / 2;
    }
    label(ctx, ...one);
  }
};
const paintLane = (ctx, task, host, width, y, height, t0, labels, shared) => {
  const facts = task.on.get(host), list = task.marks.get(host) || [], up = S.hosts.get(host)?.since || 0, mid = y + height / 2;
  if (!shared && up > t0 && (!list.length || list[0][0] >= up - 1000)) {
    const x = Math.min(xOf(up, width), width * NOW);
    unknown(ctx, x, y, height);
    if (height > 11) labels.push(["no records before the start", 0, mid, C.faint, x]);
  }
  for (const e of S.journal.get(host) || []) if (e.kind === "blocked" && (e.until || e.at) > t0) {
    const x = xOf(e.at, width); box(ctx, C.shade, x, y, Math.max(3, xOf(e.until || e.at, width) - x), height);
  }
  let skipped = 0; // while the present run goes on: said together with it
  for (let i = firstAfter(list, t0); i < list.length; i++) {
    const m = list[i], x = xOf(m[0], width), fate = m[2];
    if (fate >= RUNS) {
      const [, reason, tint] = S.fates[fate];
      if (reason === "not_owner" || (facts?.paused && reason === "paused" && m[0] + m[1] >= facts.paused.since)) continue;
      const end = Math.min(xOf(Math.min(spanEnd(m, facts), Math.max(m[0] + m[1], list[i + 1]?.[0] ?? Infinity)), width), width * NOW), tone = C[tint];
      const apart = m[3] > 1 ? (xOf(m[0] + m[1], width) - x) / (m[3] - 1) : 99;
      if (m[3] === 1 || (reason === "overlap" && apart > 11)) {
        for (let k = 0; k < m[3]; k++) { const at = x + k * apart; if (at > -5) cross(ctx, at, y + Math.max(height - 8, height / 2), Math.min(3.4, height / 3), tone); }
        if (m[3] === 1 || height > 11) continue;
      }
      const left = Math.max(0, x);
      if (end < 0) continue;
      box(ctx, hatch(ctx, tone), left, y, Math.max(2, end - left), height);
      if (reason === "overlap" && facts?.running && m[0] >= facts.running.since) skipped += m[3];
      else labels.push([reasonText(m, facts), left, mid, tone, end - left]);
      continue;
    }
    let wide = xOf(m[0] + m[1], width) - x;
    if (x + wide < 0) continue;
    const bad = fate === FAILED || fate === TIMED_OUT, tall = bad ? 1 : fate === NOTHING ? .4 : wide > 5 ? .88 : height < 12 ? .62 : .66;
    ctx.fillStyle = bad ? C.bad : fate === CANCELLED ? C.slate : C.ok;
    if (wide < 2) wide = bad ? 2.5 : height < 12 ? 1.6 : 2;
    const left = Math.max(0, x);
    ctx.fillRect(left, y + height * (1 - tall), wide - (left - x), height * tall);
    if (fate === TIMED_OUT) { box(ctx, C.warn, left, y, Math.max(wide, 4), Math.min(4, height / 3)); }
  }
  if (facts?.running) {
    const r = facts.running, x = Math.max(0, xOf(r.since, width)), end = width * NOW, usual = Math.min(end, xOf(r.since + (facts.usual || 0) * 1000, width));
    ctx.globalAlpha = .3; box(ctx, C.run, x, y, Math.max(2, end - x), height);
    if (usual > x) { ctx.globalAlpha = .35; box(ctx, C.ok, x, y, usual - x, height); }
    ctx.globalAlpha = 1; box(ctx, C.run, x, y + height - 2, Math.max(2, end - x), 2);
    if (end - x > 60 && height > 11) labels.push([`running ${long(now - r.since)}${skipped ? `, ${many(skipped)} skipped` : ""}`, x, mid, C.run, end - x]);
  }
  const off = facts?.paused ? [facts.paused.since, "slate", pausedText(facts.paused)] : facts?.state === "disabled" ? [t0, "gone", `switched off${facts.off ? `: ${facts.off}` : ""}`] : null;
  if (off) {
    const x = Math.max(0, xOf(off[0], width));
    box(ctx, hatch(ctx, C[off[1]]), x, y, Math.max(2, width * NOW - x), height);
    labels.push([off[2], x, mid, C[off[1]], width * NOW - x]);
  }
  if (facts?.next) {
    const next = nextOn(host, facts);
    ctx.fillStyle = C.faint;
    const step = Math.max((facts.spacing || 0) * 1000, 0), apart = step ? Math.ceil((3 * U.span * 1000) / (width * NOW) / step) * step : 0;
    for (let t = next, k = 0; k < 60; t += apart, k++) { const x = xOf(Math.max(t, now), width); if (x > width) break; ctx.fillRect(x + 2, mid - 2, 1, 4); if (!apart) break; }
  }
};
const paintLoop = (ctx, host, width, height) => {
  const t0 = now - U.span * 1000, mid = height / 2;
  ground(ctx, width, 2, height - 4); lines(ctx, width, height);
  if (host.since > t0) { unknown(ctx, xOf(host.since, width), 2, height - 4); label(ctx, "not up", 0, mid, C.faint, xOf(host.since, width)); }
  if (host.lag.length) {
    ctx.strokeStyle = C.faint; ctx.lineWidth = 1; ctx.beginPath();
    let before = 0;
    for (const [t, lag] of host.lag) { if (t < t0) continue; const x = xOf(t, width), y = height - 4 - Math.min(16, 3 * Math.log2(1 + lag)); if (t - before > 6000) ctx.moveTo(x, y); else ctx.lineTo(x, y); before = t; }
    ctx.stroke();
  }
  const events = (S.journal.get(host.host) || []).filter(e => e.mark && (e.until || e.at) >= t0);
  for (const [i, e] of events.entries()) {
    const limit = events[i + 1] ? Math.max(0, xOf(events[i + 1].at, width)) : width, [tone, text] = e.mark, colour = C[tone];
    const x = Math.max(0, xOf(e.at, width)), end = Math.max(x, xOf(Math.min(e.until || e.at, now), width)), wide = Math.max(tone === "slate" ? 2 : 3, end - x), within = tone !== "bad" && wide > 56;
    box(ctx, tone === "bad" || tone === "slate" ? colour : hatch(ctx, colour), x, 2, wide, height - 4);
    label(ctx, text, within ? x : x + wide, mid, colour, within ? wide : limit - x - wide);
  }
  if (!host.ok) { const x = Math.max(0, xOf(host.silent, width)); box(ctx, hatch(ctx, C.bad), x, 2, width * NOW - x, height - 4); label(ctx, "no answer", x, mid, C.bad, width * NOW - x); }
};
const paintAxis = () => {
  const canvas = document.querySelector("#axis canvas"), width = canvas.parentNode.clientWidth, ctx = sized(canvas, width, 30);
  ctx.font = FONT; ctx.textAlign = "center"; ctx.textBaseline = "middle";
  for (const t of ticks(width)) {
    const x = xOf(t, width);
    box(ctx, C.grid, Math.round(x), 24, 1, 6);
    if (x < 18 || Math.abs(x - width * NOW) < 40 || x > width - 18) continue;
    ctx.fillStyle = C.mute; ctx.fillText(hm(t), x, 14);
  }
  ctx.font = "bold " + FONT; ctx.fillStyle = C.text; ctx.fillText("now", width * NOW, 14); ctx.fillRect(Math.round(width * NOW), 24, 1, 6);
};
