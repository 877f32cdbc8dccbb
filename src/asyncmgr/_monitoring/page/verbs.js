// The verbs
let toasting;
const toast = (text, bad) => { const el = $("toast"); put(el, clean(text, 400)); cls(el, bad ? "bad" : ""); el.style.display = "block"; clearTimeout(toasting); toasting = setTimeout(() => (el.style.display = "none"), bad ? 8000 : 4000); };
const send = async (verb, body, button) => {
  if (button) button.disabled = true;
  try {
    const answer = await fetch(`api/${verb}`, { method: "POST", headers: { "Content-Type": "application/json", "X-Asyncmgr": "page" }, body: JSON.stringify(body) }), told = await answer.json();
    if (!told.ok) { toast(told.text, true); return false; }
    const until = told.task?.paused?.until;
    toast(`${line(body.task, 80)} ${{ trigger: "runs now", pause: `is paused ${until ? `until ${when(Date.parse(until))}` : "until somebody resumes it"}`, resume: "goes on at its next slot", cancel: "is being cancelled", enable: "is switched on", disable: "is switched off" }[verb] || `runs ${line(told.task?.schedule || "")} now`}.`);
    if (U.task) drawer.changed();
    return true;
  } catch { toast("No answer: nothing is known of whether it was done.", true); return false; }
  finally { if (button) button.disabled = lost; }
};
const act = (verb, task, host, button) => {
  if (!S.verbs || lost) return;
  const body = { task, host }, name = line(task, 80), where = on(host);
  if (verb === "trigger" || verb === "resume" || verb === "enable") return void send(verb, body, button);
  if (verb === "cancel") { const run = S.tasks.get(task)?.on.get(host)?.running; return ask(`Cancel the run of ${name}?`, [h("p", run ? `It has been running for ${long(now - run.since)}${where}. It may leave work half done.` : "It may leave work half done.")], "Cancel run", () => send(verb, { ...body, run_id: run?.run }), "red"); }
  if (verb === "disable") { const note = h("input", { maxlength: "200", placeholder: "why, for whoever looks next" }); return ask(`Switch ${name} off${where}?`, [h("label", "Note", note), h("p", "It gets no slots until somebody switches it on, or the service restarts.")], "Switch off", () => send(verb, { ...body, note: note.value || undefined }), "red"); }
  if (verb === "pause") {
    let length = 3600;
    const note = h("input", { autofocus: true, maxlength: "200", placeholder: "why, for whoever looks next" }), options = h("div.opts");
    for (const [text, seconds] of [["15 min", 900], ["1 hour", 3600], ["4 hours", 14400], ["1 day", 86400], ["until resumed", 0]])
      options.append(h("button", { type: "button", "aria-pressed": seconds === length, onclick: e => { length = seconds; for (const b of options.children) press(b, b === e.currentTarget); } }, text));
    return ask(`Pause ${name}${where}`, [h("div.lb", "For how long"), options, h("label", "Note", note), h("p", "Its slots are recorded as paused. A resume runs none of them.")], "Pause", () => send(verb, { ...body, ...(length ? { for: length } : { ever: true }), note: note.value || undefined }));
  }
  const facts = S.tasks.get(task)?.on.get(host), value = h("input", { maxlength: "120", value: facts?.spacing || facts?.schedule || "" });
  ask(`Reschedule ${name}${where}`, [h("label", "Seconds between two slots (30, 1m30s), or a cron expression", value), h("p", "It holds until the service restarts.")], "Reschedule", () => {
    const text = value.value.trim();
    return send(verb, { ...body, ...(/\s|^@/.test(text) ? { cron: text } : { spacing: /^[\d.]+$/.test(text) ? Number(text) : text }) });
  });
};
const ask = (title, content, label, then, kind) => {
  const box = $("ask"), go = h("button", { class: kind || "main", type: "submit" }, label);
  const form = h("form", { onsubmit: async e => { e.preventDefault(); go.disabled = true; if (await then()) box.close(); else go.disabled = false; } }, h("h2", title), content, h("div.end", h("button", { type: "button", onclick: () => box.close() }, "Leave it"), label && go));
  box.replaceChildren(form); box.showModal();
};
const showHelp = () => {
  const keys = [["/", "search"], ["j k ↓ ↑", "next, previous task"], ["Enter", "open the task"], ["Esc", "close"], ["a n f", "all, needs you, failing only"], ["1 2 3 4", "15m, 1h, 6h, 24h"], ...(S.verbs ? [["r p c", "run now, pause or resume, cancel the run"]] : []), ["t", "light or dark"]];
  ask("Keys", [h("dl", keys.flatMap(([k, v]) => [h("dt", h("kbd", k)), h("dd", v)])), h("p", "Colour and height are the outcome, width is the duration: green succeeded, red failed, hatched got no run and says why. Beyond the line are slots to come. Links: ", h("a", { href: "health" }, "health"), ", ", h("a", { href: "metrics" }, "metrics"), ".")], "", () => true);
};
