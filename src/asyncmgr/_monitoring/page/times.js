// Times in words
const many = n => n.toLocaleString("en");
const two = n => String(n).padStart(2, "0");
let clockFormat, dayFormat;
const setZone = zone => {
  const make = timeZone => {
    clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone });
    dayFormat = new Intl.DateTimeFormat("en-CA", { year: "numeric", month: "2-digit", day: "2-digit", timeZone });
  };
  try { make(zone === "local" ? undefined : zone); } catch { make("UTC"); zone = "UTC"; }
  S.zone = zone;
};
setZone("UTC");
const clock = ms => clockFormat.format(ms);
const hm = ms => clock(ms).slice(0, 5);
const when = (ms, seconds = true) => {
  const day = dayFormat.format(ms), text = clock(ms);
  return (day === dayFormat.format(now) ? "" : day + " ") + (seconds && !text.endsWith(":00") ? text : text.slice(0, 5));
};
const long = ms => {
  const s = ms / 1000;
  if (s < 0.0005) return "0 ms";
  if (s < 1) return `${Math.round(ms)} ms`;
  if (s < 9.95) return `${+s.toFixed(1)} s`;
  if (s < 119.5) return `${Math.round(s)} s`;
  const m = Math.floor(s / 60), r = Math.floor(s % 60);
  if (m < 10) return r ? `${m} min ${r} s` : `${m} min`;
  if (m < 60) return `${m} min`;
  const hours = Math.floor(m / 60);
  if (hours < 24) return m % 60 ? `${hours} h ${m % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
};
const ago = ms => (now - ms < 1000 ? "just now" : `${long(Math.max(0, now - ms))} ago`);
const brief = ms => { const m = Math.floor(ms / MIN); return m < 1 ? `${Math.floor(ms / 1000)}s` : m < 60 ? `${m}m` : m < 1440 ? `${Math.floor(m / 60)}h` : `${Math.floor(m / 1440)}d`; };
const countdown = ms => {
  const s = Math.ceil((ms - now) / 1000);
  if (s <= 0) return "due";
  if (s < 3600) return `${Math.floor(s / 60)}:${two(s % 60)}`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ${two(Math.floor((s % 3600) / 60))}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor((s % 86400) / 3600)}h`;
};
const until = ms => (ms <= now ? "due" : `in ${countdown(ms)}`);
const sentence = parts => parts.map(part => typeof part === "string" ? clean(part) :
  part[0] === "at" ? when(part[1]) : part[0] === "ago" ? long(Math.max(0, now - part[1])) : part[1] < now ? "any moment" : countdown(part[1])).join("").replace(", in any", ", any");
