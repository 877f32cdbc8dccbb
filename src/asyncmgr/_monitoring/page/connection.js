// The connection. A browser's own second try would not say what we have got, so each try is ours.
let source, retry, wait = 500;
const connect = () => {
  clearTimeout(retry);
  source?.close();
  source = new EventSource(`events?span=${U.span}&last=${encodeURIComponent(lastId)}`);
  source.onmessage = event => {
    heard = Date.now(); wait = 500;
    if (event.lastEventId) lastId = event.lastEventId;
    const message = JSON.parse(event.data);
    take[message.k]?.(message);
    if (lost) setLost(false);
    soon();
  };
  source.onerror = () => { source.close(); clearTimeout(retry); retry = setTimeout(connect, wait); wait = Math.min(wait * 1.6, 5000); };
};
const setLost = is => {
  lost = is;
  document.body.classList.toggle("lost", is);
  for (const button of document.querySelectorAll("main button, #drawer .verbs button")) if (button.dataset.verb) button.disabled = is;
};
const watchConnection = () => {
  const silent = Date.now() - heard;
  if (heard && silent > 5000 && !document.hidden) setLost(true);
  if (lost) put($("bar"), `No word for ${long(silent)}: what you see is old. The process may hang or be gone; trying again.`);
  if (silent > 15000 && source?.readyState === 1) { heard = Date.now() - 15000; connect(); }
  cls($("live"), lost ? "lost" : heard ? "on" : "");
  put($("live").lastChild, lost ? "lost" : !heard ? "connecting" : S.verbs ? "live" : "live, read-only");
};
// A page that nobody sees costs the service nothing.
let hiding;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(() => { source?.close(); clearTimeout(retry); hiding = 0; }, 60000);
  else { if (hiding === 0) { heard = Date.now(); connect(); } redraw(); }
});
