// The highlight canvas: editor, stage, tools and list put together. Knows nothing of ComfyUI.

import { empty, parse, serialize } from "./document.js";
import { patchHighlight, separateUnit } from "./edits.js";
import { addStyles, el, iconButton, slider } from "./dom.js";
import { Editor } from "./editor.js";
import { drawFrame } from "./frame.js";
import { createPanel } from "./highlight_panel.js";
import { frameOf, moveTool, nudge, removeSelected, selected } from "./move_tool.js";
import { paintDocument } from "./paint.js";
import { createShell } from "./shell.js";
import { createStage } from "./stage.js";
import { boxTool, eraserTool, polygonTool, strokeTool } from "./tools.js";

const TOOLS = { stroke: strokeTool, eraser: eraserTool, box: boxTool, polygon: polygonTool, move: moveTool };
const NAMES = {
  stroke: ["b", "Stroke"], eraser: ["e", "Eraser: cuts strokes, takes out boxes and polygons"], box: ["r", "Box"],
  polygon: ["p", "Polygon: click the corners, double-click or Enter to close"], move: ["v", "Move and scale"],
};
const WIDTHS = [0.005, 0.5];

/**
 * size(): [width, height] in pixels; prompt(): the connected prompt's text; onEdit(text): called once for each edit.
 * -> { element, editor, stage, refresh(), end() }
 */
export function createHighlightCanvas({ size, prompt = () => "", onEdit = () => {} }) {
  addStyles();
  const editor = new Editor({ parse, serialize, empty }, {
    tool: "stroke", active: 0, selection: null, width: 0.06, smoothing: 0.4, pressure: true, separate: false, dim: 0.6,
  });
  editor.onEdit = onEdit;
  const label = () => {
    const names = editor.value.highlights.map((highlight) => highlight.phrase || "unnamed").join(", ");
    return `Drawing area. ${editor.value.highlights.length} highlights${names && `: ${names.slice(0, 200)}`}`;
  };
  const stage = createStage(editor, { painter: { base, live }, tools: TOOLS, size, label });
  const panel = createPanel(editor, prompt);
  const shortcuts = shortcutsOf(editor, panel);
  const bars = createBars(editor, stage);
  const element = createShell(editor, { name: "Highlight canvas", stage, bars, panel: panel.element, shortcuts });
  return {
    element, editor, stage,
    refresh() {
      panel.refresh();
      stage.refresh();
    },
    end: () => stage.end(),
  };
}

function base(context, editor, aspect, { width, height, unit }) {
  paintDocument(context, editor.value, editor.view.active, editor.gesture?.draft, width, height, unit);
}

function live(context, editor, aspect, size, hover) {
  editor.gesture?.paint?.(context, size);
  context.globalAlpha = 1;
  const { tool } = editor.view;
  const shapes = editor.gesture?.shapes?.() ?? (tool === "move" ? selected(editor) : []);
  const short = Math.min(size.width, size.height);
  if (shapes.length) {
    const { frame, pad } = frameOf(shapes, aspect);
    drawFrame(context, frame, pad, false, short, size.unit);
  }
  if (hover && (tool === "stroke" || tool === "eraser")) {
    context.lineWidth = size.unit;
    for (const [color, more] of [["rgba(0,0,0,.6)", 1], ["#fff", 0]]) {
      context.strokeStyle = color;
      context.beginPath();
      context.arc(hover.at[0] * size.width, hover.at[1] * size.height, (editor.view.width / 2) * short + more * size.unit, 0, 7);
      context.stroke();
    }
  }
}

/** Takes away all shapes of the active highlight; its phrase stays. */
function clearActive(editor) {
  if (editor.value.highlights[editor.view.active]?.instances.length) {
    editor.edit(patchHighlight(editor.value, editor.view.active, { instances: [] }));
  }
}

function widen(editor, factor) {
  const width = Math.min(Math.max(editor.view.width * factor, WIDTHS[0]), WIDTHS[1]);
  editor.set({ width: Math.round(width * 1000) / 1000 });
}

/** The next shape is an object of its own; a selected one becomes it at once. */
function separate(editor) {
  const unit = editor.view.tool === "move" ? editor.view.selection : null;
  if (!unit) return editor.set({ separate: !editor.view.separate });
  const apart = separateUnit(editor.value.highlights[unit.highlight], unit);
  if (apart) editor.edit(patchHighlight(editor.value, unit.highlight, { instances: apart.instances }));
  editor.say(apart ? "Now an object of its own." : "It is an object of its own already.");
}

function shortcutsOf(editor, panel) {
  const step = (to) => editor.set({
    active: Math.min(Math.max(editor.view.active + to, 0), Math.max(editor.value.highlights.length - 1, 0)), selection: null,
  });
  const active = () => editor.value.highlights[editor.view.active];
  const arrow = (event) => {
    const by = event.shiftKey ? 0.05 : 0.005;
    nudge(editor, { ArrowLeft: -by, ArrowRight: by }[event.key] ?? 0, { ArrowUp: -by, ArrowDown: by }[event.key] ?? 0);
  };
  const arrows = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
  return [
    ...Object.entries(NAMES).map(([tool, [key, does]]) => ({ keys: [key], does, run: () => editor.set({ tool }) })),
    { keys: ["["], does: "Thinner brush", run: () => widen(editor, 1 / 1.2) },
    { keys: ["]"], does: "Thicker brush", run: () => widen(editor, 1.2) },
    { keys: ["z"], does: "Undo in this canvas", run: () => editor.undo() },
    { keys: ["Z", "y"], does: "Redo in this canvas", run: () => editor.redo() },
    { keys: ["n"], does: "New highlight", run: () => panel.create() },
    { keys: ["F2"], does: "Rename the highlight", run: () => panel.name() },
    { keys: ["PageUp"], does: "Highlight before", run: () => step(-1) },
    { keys: ["PageDown"], does: "Highlight after", run: () => step(1) },
    { keys: ["o"], does: "The next shape (or the selected one) is another object of the phrase", run: () => separate(editor) },
    { keys: ["h"], does: "Hide or show the highlight", run: () => active() && editor.edit(
      patchHighlight(editor.value, editor.view.active, { hidden: !active().hidden })) },
    { keys: ["x"], does: "Clear the highlight", run: () => clearActive(editor) },
    { keys: arrows, named: "Arrows", does: "Move what is selected", run: arrow },
    { keys: arrows.map((key) => `Shift+${key}`), named: "Shift+arrows", does: "Move it farther", run: arrow },
    { keys: ["Delete", "Backspace"], does: "Delete what is selected", run: () => removeSelected(editor) },
    { keys: ["Escape"], does: "Give up the shape being drawn; select nothing", run: () => editor.set({ selection: null }) },
    { keys: ["Ctrl+Z"], does: "Undo in the graph, stroke by stroke" },
    { keys: ["?"], does: "This sheet", run: () => editor.notify("sheet") },
  ];
}

function createBars(editor, stage) {
  const tools = Object.entries(NAMES).map(([tool, [key, does]]) => (
    iconButton(tool, `${does} (${key.toUpperCase()})`, () => editor.set({ tool }), { "data-tool": tool })));
  const undo = iconButton("undo", "Undo in this canvas (Z)", () => editor.undo());
  const redo = iconButton("redo", "Redo in this canvas (Shift+Z)", () => editor.redo());
  const clear = iconButton("clear", "Clear the active highlight (X)", () => clearActive(editor));
  const apart = iconButton("separate", "The next shape is another object of the phrase (O)", () => separate(editor));
  const pen = iconButton("pen", "Pen pressure changes the width", () => editor.set({ pressure: !editor.view.pressure }));
  const percent = (value) => `${Math.round(value * 1000) / 10} %`;
  // The slider is logarithmic: a thin brush needs finer steps than a thick one.
  const width = slider("Width", { min: 0, max: 100, step: 1, value: 0, text: (x) => percent(widthAt(x)) },
    (x) => editor.set({ width: widthAt(x) }));
  const smoothing = slider("Smooth", { min: 0, max: 1, step: 0.05, value: editor.view.smoothing, text: percent },
    (value) => editor.set({ smoothing: value }));
  const dim = slider("Background", { min: 0, max: 1, step: 0.05, value: editor.view.dim, text: percent },
    (value) => editor.set({ dim: value }));
  const refresh = () => {
    const { view } = editor;
    for (const button of tools) button.setAttribute("aria-pressed", String(button.dataset.tool === view.tool));
    apart.setAttribute("aria-pressed", String(view.separate));
    pen.setAttribute("aria-pressed", String(view.pressure));
    undo.disabled = !editor.past.length;
    redo.disabled = !editor.future.length;
    clear.disabled = !editor.value.highlights[view.active]?.instances.length;
    width.set(Math.round((Math.log(view.width / WIDTHS[0]) / Math.log(WIDTHS[1] / WIDTHS[0])) * 100));
    stage.dim(view.dim);
    stage.canvas.dataset.tool = view.tool;
  };
  editor.listen((what) => (what === "value" || what === "view") && refresh());
  refresh();
  return [
    el("div", { class: "ll-bar", role: "toolbar", "aria-label": "Tools" }, ...tools, el("i", {}), undo, redo, clear, el("i", {}), apart, pen),
    el("div", { class: "ll-bar ll-sliders" }, width.element, smoothing.element, dim.element),
  ];
}

const widthAt = (x) => Math.round(WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** (x / 100) * 1000) / 1000;
