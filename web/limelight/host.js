// What the canvas asks of the graph around its node. Only the front end's public node API; nothing is patched.

const widgetOf = (node, name) => (node.widgets ?? []).find((widget) => widget.name === name);

// A node that is being made, or has been removed, is in no graph, and must not be asked for its links then.
const linkedNode = (node, name) => {
  if (!node.graph) return null;
  const slot = (node.inputs ?? []).findIndex((input) => input.name === name);
  return slot < 0 ? null : (node.getInputNode?.(slot) ?? null);
};

/** [width, height] in pixels of the node's widgets. */
export function sizeOf(node) {
  return ["width", "height"].map((name) => {
    const value = Number(widgetOf(node, name)?.value);
    return value >= 8 && value <= 16384 ? value : 512;
  });
}

const longest = (texts) => texts.reduce((most, text) => (text.length > most.length ? text : most), "");

/** A node's text: its longest text widget (a prompt beside short options). */
const textOf = (node) => longest((node?.widgets ?? []).map((widget) => widget.value).filter((value) => typeof value === "string"));

/** The prompt: of the node at the `prompt` input, or the `text` of a node that the highlights go to. "" without one. */
export function promptOf(node) {
  const before = linkedNode(node, "prompt");
  if (before) return textOf(before);
  for (const after of (node.graph && node.getOutputNodes?.(0)) ?? []) {
    const source = linkedNode(after, "text");
    const text = source ? textOf(source) : widgetOf(after, "text")?.value;
    if (typeof text === "string" && text) return text;
  }
  return "";
}

const viewUrl = (api, { filename, subfolder = "", type = "output" }) => (
  api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
);

/** The URL of the picture that the node at the `background` input shows, or null. last: what the run before gave us. */
export function backgroundOf(node, api, last) {
  const source = linkedNode(node, "background");
  if (!source) return null;
  const name = widgetOf(source, "image")?.value;
  if (typeof name === "string" && source.type?.startsWith("LoadImage")) {
    const [, folder, file, type] = name.match(/^(?:(.*)[\\/])?([^\\/]*?)(?: \[(\w+)\])?$/) ?? [];
    return viewUrl(api, { filename: file ?? name, subfolder: folder, type: type ?? "input" });
  }
  const shown = source.imgs?.[0]?.src;
  return shown ?? (last ? viewUrl(api, last) : null);
}

/** Runs `change` as one step of the host's undo, whatever pointer made it (a finger sends the host no mouse-up). */
export function asOneStep(app, change) {
  app.canvas?.emitBeforeChange?.();
  try {
    change();
  } finally {
    app.canvas?.emitAfterChange?.();
  }
}

/** In the classic renderer the widget lies over the graph: hands it the wheel and the middle button. */
export function passThrough(app, element) {
  const over = () => element.closest(".dom-widget") && app.canvas;
  element.addEventListener("wheel", (event) => {
    const scrolls = event.target.closest(".ll-panel, .ll-sheet, .ll-problem");
    if (!over() || (scrolls && scrolls.scrollHeight > scrolls.clientHeight)) return;
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  });
  for (const [kind, pass] of [["pointerdown", "processMouseDown"], ["pointermove", "processMouseMove"], ["pointerup", "processMouseUp"]]) {
    element.addEventListener(kind, (event) => {
      const middle = kind === "pointermove" ? event.buttons & 4 : event.button === 1;
      if (middle && over()) app.canvas[pass](event);
    });
  }
}
