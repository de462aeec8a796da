// Small helpers to build a page. Texts become text nodes: nothing in a document can turn into markup.

const SVG = "http://www.w3.org/2000/svg";

/** el("button", { class: "x", onclick: f, title: "..." }, "text", child) */
export function el(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (typeof value === "function" || key in BOOLEAN) element[key] = value;
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const BOOLEAN = { hidden: 1, disabled: 1, checked: 1 };

const PATHS = {
  stroke: "M3 17c5-12 8 6 14-12M3 17l1-3",
  eraser: "M7 17l-4-4 9-9 5 5-8 8zM7 17h10M8 8l5 5",
  box: "M3 4h14v12H3z",
  polygon: "M10 3l7 6-3 8H6L3 8z",
  move: "M10 2v16M2 10h16M7 5l3-3 3 3M7 15l3 3 3-3M5 7l-3 3 3 3M15 7l3 3-3 3",
  undo: "M4 8h8a4 4 0 010 8H8M4 8l4-4M4 8l4 4",
  redo: "M16 8H8a4 4 0 000 8h4M16 8l-4-4M16 8l-4 4",
  clear: "M4 6h12M8 6V3h4v3M6 6l1 11h6l1-11M9 9v5M11 9v5",
  add: "M10 4v12M4 10h12",
  up: "M5 12l5-5 5 5",
  down: "M5 8l5 5 5-5",
  shown: "M2 10c4-6 12-6 16 0-4 6-12 6-16 0zM10 8a2 2 0 100 4 2 2 0 000-4z",
  hidden: "M2 10c4-6 12-6 16 0-4 6-12 6-16 0zM4 17L16 3",
  separate: "M3 6a3 3 0 106 0 3 3 0 10-6 0M11 14a3 3 0 106 0 3 3 0 10-6 0",
  warning: "M10 3l8 14H2zM10 8v4M10 14v1",
  pen: "M4 16l2-5 8-8 3 3-8 8z",
};

/** A picture of 20 x 20 in the colour of the text around it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon; its name is what screen readers say and what the pointer shows. */
export function iconButton(name, title, onclick, options = {}) {
  return el("button", { type: "button", class: "ll-button", title, "aria-label": title, onclick, ...options }, icon(name));
}

/** A labelled slider. onvalue(number): at every move; once: only when it is let go. -> { element, set(number) } */
export function slider(label, { min, max, step, value, text, once = false }, onvalue) {
  const input = el("input", { type: "range", min, max, step, "aria-label": label });
  const shown = el("output", {});
  const set = (number) => {
    input.value = number;
    shown.textContent = text(number);
    input.setAttribute("aria-valuetext", text(number));
  };
  input.oninput = () => {
    set(Number(input.value));
    if (!once) onvalue(Number(input.value));
  };
  input.onchange = () => once && onvalue(Number(input.value));
  set(value);
  return { element: el("label", { class: "ll-slider", title: label }, el("span", {}, label), input, shown), set };
}

/** The style sheet beside this module, once a page. */
export function addStyles() {
  const href = new URL("./canvas.css", import.meta.url).href;
  if (![...document.styleSheets].some((sheet) => sheet.href === href) && !document.querySelector(`link[href="${href}"]`)) {
    document.head.append(el("link", { rel: "stylesheet", href }));
  }
}
