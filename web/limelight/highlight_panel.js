// The list of highlights beside the canvas, and the phrases that the prompt offers.

import { LIMITS, colorOf, complaints } from "./document.js";
import { addHighlight, patchHighlight, reorder } from "./edits.js";
import { el, icon, iconButton } from "./dom.js";
import { phrasesOf } from "./phrases.js";

/** prompt(): the connected prompt's text, "" without one. -> { element, refresh(), name(): puts the cursor into the active name } */
export function createPanel(editor, prompt) {
  const rows = el("ul", { class: "ll-rows", "aria-label": "Highlights" });
  const offers = el("div", { class: "ll-offers", role: "group", "aria-label": "Phrases of the prompt" });
  const add = el("button", { type: "button", class: "ll-button ll-text", title: "New highlight (N)", onclick: () => create() },
    icon("add"), "New highlight");
  const element = el("div", { class: "ll-panel" }, rows, add, offers);

  const change = (index, patch, view) => editor.edit(patchHighlight(editor.value, index, patch), view);

  function create(phrase = "") {
    const { length } = editor.value.highlights;
    if (editor.problem || editor.gesture) return;
    if (length >= LIMITS.highlights) return editor.say(`There is no room for more than ${LIMITS.highlights} highlights.`);
    editor.edit(addHighlight(editor.value, phrase), { active: length });
    if (!phrase) name();
  }

  function name() {
    rows.children[editor.view.active]?.querySelector(".ll-phrase").focus({ preventScroll: true });
  }

  function move(index, by) {
    const to = index + by;
    if (to < 0 || to >= editor.value.highlights.length) return;
    const active = editor.view.active === index ? to : editor.view.active === to ? index : editor.view.active;
    editor.edit(reorder(editor.value, index, to), { active });
  }

  function remove(index) {
    const { phrase } = editor.value.highlights[index];
    const active = Math.max(0, editor.view.active - (editor.view.active >= index ? 1 : 0));
    change(index, null, { active });
    editor.say(`Deleted ${phrase || "a highlight without a name"}.`);
  }

  /** A row knows its place only: the highlight there may change. */
  function createRow(index) {
    const now = () => editor.value.highlights[index];
    const color = el("input", {
      type: "color", class: "ll-color", title: "Colour", onchange: () => change(index, { color: color.value }),
    });
    const phrase = el("input", {
      type: "text", class: "ll-phrase", placeholder: "words of the prompt", maxlength: LIMITS.phrase, spellcheck: "false",
      autocomplete: "off", onfocus: () => editor.view.active !== index && editor.set({ active: index, selection: null }),
      onchange: () => change(index, { phrase: phrase.value.trim() }),
    });
    const hide = iconButton("shown", "Hide", () => change(index, { hidden: !now().hidden }));
    const up = iconButton("up", "Move up", () => move(index, -1));
    const down = iconButton("down", "Move down", () => move(index, 1));
    const gone = iconButton("clear", "Delete", () => remove(index));
    const strength = el("input", {
      type: "number", min: 0, max: LIMITS.strength, step: 0.05, title: "How hard it pulls, compared with the others; 0 is off",
      onchange: () => change(index, { strength: held(strength, 0, LIMITS.strength) }),
    });
    const occurrence = el("input", {
      type: "number", min: 1, max: LIMITS.occurrence, step: 1, title: "Which mention in the prompt is meant, if it says the phrase several times",
      onchange: () => change(index, { occurrence: Math.round(held(occurrence, 1, LIMITS.occurrence)) }),
    });
    const warning = el("p", { class: "ll-warning" });
    const more = el("div", { class: "ll-more" }, el("label", {}, "strength", strength), el("label", {}, "mention", occurrence));
    const row = el("li", { class: "ll-row" }, el("div", { class: "ll-name" }, color, phrase),
      el("div", { class: "ll-acts" }, hide, up, down, gone), more, warning);
    row.addEventListener("pointerdown", () => editor.view.active !== index && editor.set({ active: index, selection: null }));

    row.show = (highlight, complaint) => {
      const active = editor.view.active === index, label = highlight.phrase || `highlight ${index + 1}`;
      row.classList.toggle("ll-active", active);
      row.classList.toggle("ll-off", highlight.hidden);
      row.setAttribute("aria-current", String(active));
      color.value = colorOf(highlight, index);
      color.setAttribute("aria-label", `Colour of ${label}`);
      if (document.activeElement !== phrase || phrase.value.trim() !== highlight.phrase) phrase.value = highlight.phrase;
      phrase.setAttribute("aria-label", `Phrase of highlight ${index + 1}`);
      strength.value = highlight.strength;
      strength.setAttribute("aria-label", `Strength of ${label}`);
      occurrence.value = highlight.occurrence;
      occurrence.setAttribute("aria-label", `Mention of ${label}`);
      more.hidden = !active;
      hide.replaceChildren(icon(highlight.hidden ? "hidden" : "shown"));
      hide.setAttribute("aria-pressed", String(highlight.hidden));
      for (const [button, act] of [[hide, "Hide"], [up, "Move up"], [down, "Move down"], [gone, "Delete"]]) {
        button.setAttribute("aria-label", `${act} ${label}`);
      }
      up.disabled = index === 0;
      down.disabled = index === editor.value.highlights.length - 1;
      warning.textContent = complaint;
      warning.hidden = !complaint;
      phrase.setAttribute("aria-invalid", String(Boolean(complaint)));
    };
    return row;
  }

  function offer(text) {
    const taken = new Set(editor.value.highlights.map(({ phrase }) => phrase.toLowerCase()));
    const phrases = phrasesOf(text).filter((phrase) => !taken.has(phrase.toLowerCase()));
    if (offers.dataset.shown === phrases.join("\n")) return;
    offers.dataset.shown = phrases.join("\n");
    offers.replaceChildren(...phrases.map((phrase) => el("button", {
      type: "button", class: "ll-button ll-text", title: "Take this phrase", onclick: () => take(phrase),
    }, phrase)));
  }

  function take(phrase) {
    const { active } = editor.view;
    if (editor.value.highlights[active]?.phrase === "") change(active, { phrase });
    else create(phrase);
  }

  function refresh() {
    const { highlights } = editor.value;
    editor.view.active = Math.max(0, Math.min(editor.view.active, highlights.length - 1)); // undo may have taken it away
    while (rows.children.length > highlights.length) rows.lastChild.remove();
    while (rows.children.length < highlights.length) rows.append(createRow(rows.children.length));
    const text = prompt();
    const wrong = complaints(editor.value, text);
    highlights.forEach((highlight, i) => rows.children[i].show(highlight, wrong[i]));
    offer(text);
  }

  editor.listen((what) => (what === "value" || what === "view") && refresh());
  refresh();
  return { element, refresh, create, name };
}

function held(input, low, high) {
  const value = Number.isFinite(input.valueAsNumber) ? input.valueAsNumber : 1;
  return Math.min(Math.max(value, low), high);
}
