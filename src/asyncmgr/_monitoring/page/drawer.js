// The drawer
const drawer = {
  el: $("drawer"), detail: null, timer: 0, back: null, asked: 0, late: false,
  open(name, host, at) {
    const task = S.tasks.get(name);
    if (!task) return;
    if (!U.task) this.back = document.activeElement;
    if (name !== U.task) this.detail = null;
    U.task = name; U.host = host && task.on.has(host) ? host : worst(task)?.host || S.host; U.at = at || 0;
    this.slotText = null;
    this.el.classList.add("open");
    this.show(); this.load(); if (U.at) this.explain(U.at);
    this.el.scrollTop = 0; focusOn(this.el); keepUrl();
  },
  close() { if (!U.task) return; U.task = ""; this.el.classList.remove("open"); keepUrl(); focusOn(this.back?.isConnected ? this.back : rows); },
  changed() { if (!this.timer) this.timer = setTimeout(() => { this.timer = 0; if (U.task) { this.show(); this.load(); } }, 700); },
  async ask(more = "") {
    const answer = await fetch(`detail?${new URLSearchParams({ task: U.task, host: U.host })}${more}`);
    return answer.json();
  },
  async load() {
    const number = ++this.asked;
    try {
      const answer = await this.ask();
      if (number === this.asked) { this.detail = answer.ok ? answer : { text: answer.text, slots: [] }; this.show(); }
    } catch { /* the bar says that nothing comes */ }
  },
  async explain(at) {
    U.at = at;
    try { this.slotText = (await this.ask("&at=" + new Date(at).toISOString())).text; this.show(); } catch { /* as above */ }
  },
  sentence(facts) {
    if (facts.need) return sentence(facts.need.text);
    const text = clean(this.detail?.text || "", 1000), cut = text.startsWith(U.task + ": ") ? text.slice(U.task.length + 2) : text;
    return cut ? cut[0].toUpperCase() + cut.slice(1) : standing({ facts, state: stateOf(facts) })[0];
  },
  show() {
    if ((this.late = pressing)) return;
    const task = S.tasks.get(U.task);
    if (!task) { this.close(); return; }
    if (!task.on.has(U.host)) U.host = worst(task).host;
    const facts = task.on.get(U.host), done = facts.running?.progress, state = stateOf(facts), [icon, tone] = LOOK[state] || LOOK.ok, d = this.detail || {}, name = U.task, host = U.host;
    const kept = this.el.scrollTop, key = document.activeElement?.dataset?.key, inside = this.el.contains(document.activeElement);
    const verb = (v, text, kind) => h("button", { class: kind || "", "data-verb": v, "data-key": v, disabled: lost, onclick: e => act(v, name, host, e.currentTarget) }, text);
    const sub = [facts.schedule || "every pass", d.options?.timeout ? `timeout ${long(d.options.timeout * 1000)}` : d.options ? "no timeout" : "", facts.owner ? "one in the cluster" : ""].filter(Boolean).join(", ");
    const body = [
      h("div.top", h("span", { class: "t-" + tone, "aria-hidden": "true" }, icon), h("div", h("h2", line(name)), line(sub)), h("button", { "aria-label": "Close", "data-key": "close", onclick: () => this.close() }, "✕")),
      task.on.size > 1 && h("div.verbs.seg", { role: "group", "aria-label": "Host" }, [...task.on.keys()].sort().map(one => h("button", { "aria-pressed": one === host, "data-key": "h" + one, onclick: () => { U.host = one; this.detail = null; this.slotText = null; this.show(); this.load(); } }, line(one, 40)))),
      h("div", { class: "say " + (tone === "mute" ? "slate" : tone) }, h("small", "now"), h("span", { id: "say" }, this.sentence(facts))),
      h("div.verbs", S.verbs && [state !== "disabled" && verb("trigger", "▶ Run now", ["failing", "held", "stale"].includes(state) ? "main" : ""), facts.paused ? verb("resume", "Resume") : state !== "disabled" && verb("pause", "‖ Pause…"), facts.running && verb("cancel", "Cancel run", "red"), verb("reschedule", "Reschedule…"), state === "disabled" ? verb("enable", "Switch on") : verb("disable", "Switch off…")],
        h("button", { "data-key": "copy", onclick: () => this.copy(task, facts) }, "Copy as text")),
      !S.verbs && h("p.t-mute", "Read-only: open the link with the token for the verbs."),
      done && h("div", h("progress", done[1] ? { value: done[0], max: done[1] } : {}), h("div.t-mute", `${done[0]}${done[1] ? " of " + done[1] : ""} ${line(done[2])}`)),
      facts.running && d.waits?.length ? [h("h3", "Where the run in progress waits"), h("div.waits", d.waits.flatMap(w => [h("span", line(w.place, 60)), h("span", line(w.function, 100)), h("span", line(w.code, 100))]))] : null,
      facts.error && [h("h3", "The last failure"), h("pre", clean(facts.error, 2000))],
      h("h3", "Facts"), h("dl", { id: "facts" }, (d.facts || []).flatMap(([k, v]) => [h("dt", k), h("dd", sentence(v))])),
      d.actions?.length ? [h("h3", "Who did what"), h("dl", d.actions.slice().reverse().flatMap(a => [h("dt", when(a.at)), h("dd", `${line(a.who || "code")} ${a.did || line(a.kind)} it${a.until ? ` until ${when(a.until)}` : ""}${a.note ? `: ${line(a.note)}` : ""}`)]))] : null,
      h("h3", "Slots, newest first"), this.slots(d, facts),
    ];
    aria(this.el, "label", line(name));
    this.el.firstElementChild.replaceChildren(...body.flat(3).filter(Boolean));
    this.el.scrollTop = kept;
    if (inside) focusOn(key && [...this.el.querySelectorAll("[data-key]")].find(el => el.dataset.key === key) || this.el);
  },
  slots(d, facts) {
    const list = [];
    if (facts.running) list.push(h("div.slot", h("span", when(facts.running.since)), h("span.t-run", "running"), h("span", { id: "age" }, long(now - facts.running.since))));
    for (const s of d.slots || []) {
      const [fate, reason, tone, brief] = S.fates[s.fate], is = Math.abs(s.slot - U.at) < 500 && this.slotText;
      const what = `${reason ? `${fate}: ` : ""}${brief}${s.text && reason !== "overlap" && s.fate !== CANCELLED ? `: ${line(s.text, 90)}` : ""}`;
      list.push(h("button.slot", { "data-key": "s" + s.slot, "aria-expanded": !!is, onclick: () => { if (is) { U.at = 0; this.slotText = null; this.show(); } else this.explain(s.slot); } },
        h("span", when(s.slot)), h("span", { class: "t-" + tone }, what), h("span", s.count > 1 ? `${many(s.count)} slots` : s.took == null ? "" : `${long(s.took * 1000)}${s.late > 1 ? `, ${long(s.late * 1000)} late` : ""}`)));
      if (is) list.push(h("p", clean(this.slotText, 1000)));
    }
    if (this.slotText && !(d.slots || []).some(s => Math.abs(s.slot - U.at) < 500)) list.unshift(h("p.say.slate", clean(this.slotText, 1000)));
    return list.length ? list : h("p.t-mute", this.detail ? "None yet." : "Asking …");
  },
  tick() {
    const facts = S.tasks.get(U.task)?.on.get(U.host), say = $("say"), age = $("age");
    if (!facts) return;
    if (say) put(say, this.sentence(facts));
    if (age && facts.running) put(age, long(now - facts.running.since));
    const said = this.el.querySelectorAll("#facts dd");
    (this.detail?.facts || []).forEach(([, v], i) => said[i] && put(said[i], sentence(v)));
  },
  async copy(task, facts) {
    const d = this.detail || {}, text = [`${line(task.name)} on ${line(U.host)}, ${when(now)} ${S.zone}`, this.sentence(facts), "", ...(d.facts || []).map(([k, v]) => `${k}: ${sentence(v)}`),
      ...(facts.error ? ["", `last failure: ${clean(facts.error, 2000)}`] : []), ...(d.waits?.length ? ["", "the run in progress waits in", ...d.waits.map(w => `  ${w.place}  ${w.function}  ${w.code}`)] : []),
      "", "slots, newest first", ...(d.slots || []).slice(0, 30).map(s => `  ${when(s.slot)}  ${S.fates[s.fate].slice(0, 2).filter(Boolean).join(", ")}${s.count > 1 ? `, ${s.count} slots` : ""}${s.took == null ? "" : `, ${long(s.took * 1000)}`}${s.text ? `, ${line(s.text)}` : ""}`)].join("\n");
    try { await navigator.clipboard.writeText(text); toast("Copied."); }
    catch { // not a secure context: by way of a selection
      const area = h("textarea"); area.value = text; this.el.append(area); area.select();
      const done = document.execCommand("copy"); area.remove(); toast(done ? "Copied." : "This browser lets nothing be copied here.", !done);
    }
  },
};
