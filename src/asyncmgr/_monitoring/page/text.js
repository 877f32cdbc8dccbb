"use strict";
const $ = id => document.getElementById(id), rows = $("rows"), MIN = 60000, HOUR = 3600000;
// Whatever comes from tasks is shown through clean(): no control, bidi or other unseen characters, no endless texts.
const clean = (text, most = 500) => {
  text = String(text ?? "");
  const cut = text.length > most ? text.slice(0, most) + "…" : text;
  return cut.replace(/[^\P{C}\n]|[\u2028\u2029]/gu, c => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"));
};
const line = (text, most = 200) => clean(text, most).replace(/\n/g, " ");
// Makes an element: h("p.red", {title: "x"}, "text", other). The properties may be left out.
const h = (tag, ...children) => {
  const [name, ...classes] = tag.split("."), el = document.createElement(name);
  el.className = classes.join(" ");
  if (children[0]?.constructor === Object) for (const [key, value] of Object.entries(children.shift())) {
    if (key.startsWith("on")) el.addEventListener(key.slice(2), value);
    else if (key.startsWith("aria-")) el.setAttribute(key, value);
    else if (value != null && value !== false) el.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child != null && child !== false) el.append(child instanceof Node ? child : clean(child, 12000));
  return el;
};
const aria = (el, name, value) => el.setAttribute("aria-" + name, value);
const press = (button, is) => aria(button, "pressed", is);
const focusOn = el => el.focus({ preventScroll: true });
const put = (el, text) => { if (el.textContent !== text) el.textContent = text; };
const cls = (el, name) => { if (el.className !== name) el.className = name; };
