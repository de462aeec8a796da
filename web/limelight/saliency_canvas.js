// The saliency canvas: the same editor, stage and shell with blobs in place of highlights. Knows nothing of ComfyUI.

import { blobKind, blobPainter, blobTool, patchBlob } from "./blobs.js";
import { addStyles, el, iconButton, slider } from "./dom.js";
import { Editor } from "./editor.js";
import { clamp, round } from "./geometry.js";
import { createShell } from "./shell.js";
import { createStage } from "./stage.js";

/**
 * size(): [width, height] in pixels; onEdit(text): called once for each edit.
 * -> { element, editor, stage, refresh(), end() }
 */
export function createSaliencyCanvas({ size, onEdit = () => {} }) {
  addStyles();
  const editor = new Editor(blobKind, { tool: "blob", active: -1, mode: "attract", amplitude: 0.7, dim: 0.6 });
  editor.onEdit = onEdit;
  const label = () => `Drawing area. ${editor.value.blobs.length} blobs`;
  const stage = createStage(editor, { painter: blobPainter, tools: { blob: blobTool }, size, label });
  const element = createShell(editor, {
    name: "Saliency canvas", stage, bars: createBars(editor, stage), shortcuts: shortcutsOf(editor),
  });
  return { element, editor, stage, refresh: () => stage.refresh(), end: () => stage.end() };
}

const active = (editor) => editor.value.blobs[editor.view.active];

/** Changes the selected blob, and what the next one will be like. */
function change(editor, patch) {
  const { mode, amplitude } = { ...editor.view, ...patch };
  editor.set({ mode, amplitude });
  if (active(editor)) editor.edit(patchBlob(editor.value, editor.view.active, patch));
}

function remove(editor) {
  if (active(editor)) editor.edit(patchBlob(editor.value, editor.view.active, null), { active: -1 });
}

function nudge(editor, event) {
  const by = event.shiftKey ? 0.05 : 0.005, blob = active(editor);
  if (!blob) return;
  const dx = { ArrowLeft: -by, ArrowRight: by }[event.key] ?? 0, dy = { ArrowUp: -by, ArrowDown: by }[event.key] ?? 0;
  const moved = { x: round(clamp(blob.x + dx, 0, 1)), y: round(clamp(blob.y + dy, 0, 1)) };
  editor.edit(patchBlob(editor.value, editor.view.active, moved));
}

const modeNow = (editor) => active(editor)?.mode ?? editor.view.mode;
const swap = (editor) => change(editor, { mode: modeNow(editor) === "attract" ? "suppress" : "attract" });
const select = (editor, by) => {
  const { length } = editor.value.blobs;
  if (length) editor.set({ active: (editor.view.active + by + length) % length });
};

function shortcutsOf(editor) {
  const arrows = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], run = (event) => nudge(editor, event);
  const louder = (by) => {
    const amplitude = active(editor)?.amplitude ?? editor.view.amplitude;
    change(editor, { amplitude: round(clamp(amplitude + by, 0, 1)) });
  };
  return [
    { keys: ["s"], does: "Attract or suppress", run: () => swap(editor) },
    { keys: ["["], does: "Weaker", run: () => louder(-0.05) },
    { keys: ["]"], does: "Stronger", run: () => louder(0.05) },
    { keys: ["z"], does: "Undo in this canvas", run: () => editor.undo() },
    { keys: ["Z", "y"], does: "Redo in this canvas", run: () => editor.redo() },
    { keys: ["PageUp"], does: "Blob before", run: () => select(editor, -1) },
    { keys: ["PageDown"], does: "Blob after", run: () => select(editor, 1) },
    { keys: arrows, named: "Arrows", does: "Move the blob", run },
    { keys: arrows.map((key) => `Shift+${key}`), named: "Shift+arrows", does: "Move it farther", run },
    { keys: ["Delete", "Backspace"], does: "Delete the blob", run: () => remove(editor) },
    { keys: ["Escape"], does: "Give up the move; select nothing", run: () => editor.set({ active: -1 }) },
    { keys: ["Ctrl+Z"], does: "Undo in the graph, step by step" },
    { keys: ["?"], does: "This sheet", run: () => editor.notify("sheet") },
  ];
}

function createBars(editor, stage) {
  const modes = ["attract", "suppress"].map((mode) => el("button", {
    type: "button", class: "ll-button ll-text", title: "(S)", "data-mode": mode, onclick: () => change(editor, { mode }),
  }, mode === "attract" ? "Attract" : "Suppress"));
  const undo = iconButton("undo", "Undo in this canvas (Z)", () => editor.undo());
  const redo = iconButton("redo", "Redo in this canvas (Shift+Z)", () => editor.redo());
  const gone = iconButton("clear", "Delete the blob (Del)", () => remove(editor));
  const percent = (value) => `${Math.round(value * 100)} %`;
  const amplitude = slider("Amplitude", { min: 0, max: 1, step: 0.05, value: 0, text: percent, once: true },
    (value) => change(editor, { amplitude: value }));
  const dim = slider("Background", { min: 0, max: 1, step: 0.05, value: 0, text: percent }, (value) => editor.set({ dim: value }));
  const refresh = () => {
    for (const button of modes) button.setAttribute("aria-pressed", String(button.dataset.mode === modeNow(editor)));
    undo.disabled = !editor.past.length;
    redo.disabled = !editor.future.length;
    gone.disabled = !active(editor);
    amplitude.set(active(editor)?.amplitude ?? editor.view.amplitude);
    dim.set(editor.view.dim);
    stage.dim(editor.view.dim);
  };
  editor.listen((what) => (what === "value" || what === "view") && refresh());
  refresh();
  return [
    el("div", { class: "ll-bar", role: "toolbar", "aria-label": "Tools" }, ...modes, el("i", {}), undo, redo, gone),
    el("div", { class: "ll-bar ll-sliders" }, amplitude.element, dim.element),
  ];
}
