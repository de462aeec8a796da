// What both canvases share around the stage: keyboard, shortcut sheet, messages, and keeping the host's hands off.

import { el } from "./dom.js";

const TYPED = 'input:not([type="range"]):not([type="color"]), select, textarea';

/**
 * editor; stage: from createStage; bars: elements above it; panel: an element beside it, if any;
 * shortcuts: [{ keys: ["b"], does: "Stroke", run(event), named? }]; named: what the sheet says instead of the keys.
 * -> the widget's root element
 */
export function createShell(editor, { name, stage, bars, panel, shortcuts }) {
  const status = el("div", { class: "ll-status", role: "status", "aria-live": "polite" });
  const problem = el("div", { class: "ll-problem", role: "alert", hidden: true });
  const sheet = createSheet(shortcuts, () => show(false));
  const help = el("button", {
    type: "button", class: "ll-button ll-help", title: "Shortcuts (?)", "aria-label": "Shortcuts", "aria-expanded": "false",
    onclick: () => show(sheet.hidden),
  }, "?");
  bars[0].append(help);
  const work = el("div", { class: "ll-work" }, stage.element, ...(panel ? [panel] : []), problem);
  const root = el("div", { class: "limelight-canvas widget-expands", role: "group", "aria-label": name, title: "" },
    ...bars, work, status, sheet);

  function show(open) {
    sheet.hidden = !open;
    help.setAttribute("aria-expanded", String(open));
    (open ? sheet.querySelector("button") : help).focus({ preventScroll: true });
  }

  function tellProblem() {
    problem.hidden = !editor.problem;
    if (!editor.problem) return;
    problem.replaceChildren(
      el("strong", {}, "This drawing cannot be read."), el("p", {}, editor.problem.message),
      el("p", {}, "It is kept as it is until you start a new one; Undo (Ctrl+Z) of the graph brings back what was before."),
      el("button", { type: "button", class: "ll-button ll-text", onclick: () => editor.startAfresh() }, "Start a new drawing"),
    );
  }

  root.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.blur(); // run with what is being typed
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return; // the host's
    const handled = event.target.matches(TYPED) ? typed(event) : pressed(event);
    if (!handled) return;
    event.preventDefault();
    event.stopPropagation();
  });

  function typed(event) {
    if (event.key !== "Enter" && event.key !== "Escape") return false;
    stage.canvas.focus({ preventScroll: true }); // leaving the field takes its text over
    return true;
  }

  function pressed(event) {
    if (event.key === "Escape" && !sheet.hidden) return show(false) ?? true;
    const { gesture } = editor;
    if (gesture) {
      if (event.key === "Escape") editor.cancel();
      else if (gesture.key?.(event)) editor.gesture = null;
      editor.notify("view");
      return event.key !== "Tab";
    }
    const letter = event.key.length === 1; // caps lock is no shift
    const key = letter && !event.shiftKey ? event.key.toLowerCase() : `${event.shiftKey && !letter ? "Shift+" : ""}${event.key}`;
    const shortcut = shortcuts.find(({ keys }) => keys.includes(key));
    const slides = event.target.matches('input[type="range"]') && event.key.startsWith("Arrow");
    if (shortcut?.run && !slides) {
      shortcut.run(event);
      return true;
    }
    return event.key === "Delete" || event.key === "Backspace"; // the host would delete the whole node
  }

  // Left button only: the middle one pans the graph. `mouseup` must reach the window, where the host takes its undo steps.
  for (const kind of ["pointerdown", "pointermove", "pointerup", "dblclick"]) {
    root.addEventListener(kind, (event) => {
      if (event.button <= 0 && !(event.buttons & 4)) event.stopPropagation();
    });
  }
  editor.listen((what, message) => {
    if (what === "value") tellProblem();
    if (what === "say") status.textContent = message;
    if (what === "sheet") show(sheet.hidden);
  });
  return root;
}

function createSheet(shortcuts, close) {
  const rows = shortcuts.map(({ keys, named, does }) => el("div", {},
    el("dt", {}, ...(named ? [named] : keys).map((key) => el("kbd", {}, nameOf(key)))), el("dd", {}, does)));
  return el("div", { class: "ll-sheet", role: "dialog", "aria-label": "Shortcuts", hidden: true },
    el("button", { type: "button", class: "ll-button ll-text", onclick: close }, "Close"), el("dl", {}, ...rows));
}

const NAMES = { PageUp: "PgUp", PageDown: "PgDn", Delete: "Del", Escape: "Esc" };

function nameOf(key) {
  if (/^[A-Z]$/.test(key)) return `Shift+${key}`;
  return NAMES[key] ?? (key.length === 1 ? key.toUpperCase() : key);
}
