// The extension: draws the `highlights` text of LimelightHighlightCanvas as a canvas, in both of the front end's renderers.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { createHighlightCanvas } from "./limelight/highlight_canvas.js";
import { asOneStep, backgroundOf, passThrough, promptOf, sizeOf } from "./limelight/host.js";

const KIND = "LIMELIGHT_HIGHLIGHTS"; // the widgetType in nodes/highlight_canvas.py
const SMALLEST = [500, 420]; // of the widget; the user may make the node larger

// Which tool, brush and highlight a node's canvas had: host undo makes every node anew, and the hand goes on drawing.
const views = new Map();

/** Runs `more` after whatever the node already does there. */
function after(node, name, more) {
  const before = node[name];
  node[name] = function (...args) {
    const result = before?.apply(this, args);
    more(...args);
    return result;
  };
}

function createWidget(node, name) {
  let last = null; // the background of the last run
  const canvas = createHighlightCanvas({
    size: () => sizeOf(node),
    prompt: () => promptOf(node),
    onEdit: () => asOneStep(app, () => widget.callback?.(widget.value)),
  });
  const { editor, element, stage } = canvas;
  passThrough(app, element);
  const widget = node.addDOMWidget(name, KIND, element, {
    getValue: () => editor.text,
    setValue: (text) => editor.load(text),
    getMinHeight: () => SMALLEST[1],
    hideOnZoom: false,
    socketless: true,
  });

  const key = () => `${node.graph?.id}:${node.id}`;
  const refresh = () => {
    stage.setBackground(backgroundOf(node, api, last));
    canvas.refresh();
  };
  const soon = () => setTimeout(refresh); // the change that is being told of is not in the graph yet
  after(node, "onConfigure", () => {
    const known = views.get(key());
    if (known) editor.set({ ...known, selection: null });
    soon();
  });
  const watched = new WeakSet();
  after(node, "onAdded", () => {
    for (const field of node.widgets ?? []) {
      if (!["width", "height"].includes(field.name) || watched.has(field)) continue;
      watched.add(field);
      after(field, "callback", soon);
    }
    soon();
  });
  after(node, "onConnectionsChange", soon);
  after(node, "onExecuted", (output) => {
    last = output?.limelight_background?.[0] ?? null;
    soon();
  });
  after(node, "onRemoved", () => {
    views.set(key(), { ...editor.view });
    canvas.end();
  });
  element.addEventListener("pointerenter", refresh);
  return { widget, minWidth: SMALLEST[0], minHeight: SMALLEST[1] };
}

app.registerExtension({
  name: "limelight.highlight_canvas",
  getCustomWidgets: () => ({ [KIND]: createWidget }),
});
