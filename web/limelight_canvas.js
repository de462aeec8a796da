// The extension: draws the text of LimelightHighlightCanvas and of LimelightSaliencyEditor as a canvas, in both of the
// front end's renderers.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { createHighlightCanvas } from "./limelight/highlight_canvas.js";
import { asOneStep, backgroundOf, passThrough, promptOf, sizeOf } from "./limelight/host.js";
import { createSaliencyCanvas } from "./limelight/saliency_canvas.js";

// by the widgetType in nodes/highlight_canvas.py and nodes/saliency_editor.py
const KINDS = { LIMELIGHT_HIGHLIGHTS: createHighlightCanvas, LIMELIGHT_SALIENCY: createSaliencyCanvas };
const SMALLEST = [500, 420]; // of the widget; the user may make the node larger
const WAIT = 10_000; // milliseconds until a removed node's canvas is given up

// The host's undo makes every node anew, with the ids they had. The new node then takes over the old one's canvas: the
// hand goes on with its tool and brush, and Nodes 2.0 of older front ends goes on showing the old node's element.
const retired = new Map();

/** Runs `more` after whatever the node already does there. */
function after(node, name, more) {
  const before = node[name];
  node[name] = function (...args) {
    const result = before?.apply(this, args);
    more(...args);
    return result;
  };
}

/** A canvas and the node that it belongs to now: { canvas, node, widget, background: of the last run }. */
function createOwned(node, kind) {
  const owned = { node, widget: null, background: null };
  owned.canvas = KINDS[kind]({
    size: () => sizeOf(owned.node),
    prompt: () => promptOf(owned.node),
    onEdit: () => asOneStep(app, () => owned.widget?.callback?.(owned.widget.value)),
  });
  const { element, stage } = owned.canvas;
  owned.refresh = () => {
    stage.setBackground(backgroundOf(owned.node, api, owned.background));
    owned.canvas.refresh();
  };
  element.addEventListener("pointerenter", owned.refresh);
  passThrough(app, element);
  return owned;
}

function createWidget(kind, node, name, start) {
  let owned = createOwned(node, kind);
  if (start) owned.canvas.editor.load(start);
  let place = null; // the node's graph and id, while it has them
  const widget = node.addDOMWidget(name, kind, owned.canvas.element, {
    getValue: () => owned.canvas.editor.text,
    setValue: (text) => owned.canvas.editor.load(text),
    getMinHeight: () => SMALLEST[1],
    hideOnZoom: false,
    hideInPanel: true, // the side panel would take the node's width from the widget and draw nothing
    socketless: true,
  });
  owned.widget = widget;

  const soon = () => setTimeout(owned.refresh); // the change that is being told of is not in the graph yet
  const settle = () => {
    if (node.graph) place = `${kind}:${node.graph.id}:${node.id}`;
    soon();
  };
  const takeOver = () => {
    const old = retired.get(place);
    if (!old) return;
    retired.delete(place);
    const { text } = owned.canvas.editor;
    owned.canvas.end();
    owned = Object.assign(old, { node, widget });
    widget.element = owned.canvas.element;
    owned.canvas.editor.load(text);
  };
  const watched = new WeakSet();
  after(node, "onAdded", () => {
    for (const field of node.widgets ?? []) {
      if (!["width", "height"].includes(field.name) || watched.has(field)) continue;
      watched.add(field);
      after(field, "callback", soon);
    }
    settle();
  });
  after(node, "onConfigure", () => {
    settle();
    takeOver();
  });
  after(node, "onConnectionsChange", soon);
  after(node, "onExecuted", (output) => {
    owned.background = output?.limelight_background?.[0] ?? null;
    soon();
  });
  after(node, "onRemoved", () => {
    const left = owned, at = place;
    retired.set(at, left);
    setTimeout(() => {
      if (retired.get(at) !== left) return; // another node has it now
      retired.delete(at);
      left.canvas.end();
    }, WAIT);
  });
  return { widget, minWidth: SMALLEST[0], minHeight: SMALLEST[1] };
}

app.registerExtension({
  name: "limelight.canvas",
  getCustomWidgets: () => Object.fromEntries(
    Object.keys(KINDS).map((kind) => (
      [kind, (node, name, spec) => createWidget(kind, node, name, spec?.[1]?.default)]
    )),
  ),
});
