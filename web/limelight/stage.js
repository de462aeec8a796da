// The drawing area: two canvases over a background, the pointer, and when to paint. Serves both kinds of drawing.

import { aspectOf } from "./geometry.js";
import { whenDecoded } from "./paint.js";
import { el } from "./dom.js";

const LARGEST = 2048; // pixels of a canvas side
const FINGER = 18, POINTER = 9; // how near counts as on it, in CSS pixels

/**
 * editor: what is edited; painter: { base, live(context, editor, aspect, size) }; tools: gestures by name;
 * size(): [width, height] of the image in pixels.
 * -> { element, canvas, refresh(), setBackground(url), end() }
 */
export function createStage(editor, { painter, tools, size, label }) {
  const base = el("canvas", { class: "ll-base", "aria-hidden": "true" });
  const canvas = el("canvas", { class: "ll-live", tabindex: "0", role: "application", "aria-label": label() });
  const picture = el("img", { class: "ll-background", alt: "", draggable: "false", hidden: true });
  const paper = el("div", { class: "ll-paper" }, picture, base, canvas);
  const element = el("div", { class: "ll-stage" }, paper);
  let hover = null, frame = 0, pointer = null, stale = true, fitted = "";

  const aspect = () => aspectOf(...size());
  const pixels = () => ({ width: canvas.width, height: canvas.height, unit: canvas.width / (paper.offsetWidth || 1) });

  function fit() {
    const [wide, high] = size();
    const room = [element.clientWidth, element.clientHeight];
    if (!room[0] || !room[1]) return; // collapsed, or not on the page
    const shown = Math.min(room[0] / wide, room[1] / high);
    const css = [Math.max(1, Math.round(wide * shown)), Math.max(1, Math.round(high * shown))];
    const zoom = Math.max(1, Math.min(3, element.getBoundingClientRect().width / room[0] || 1));
    const dense = Math.min(devicePixelRatio * zoom, LARGEST / Math.max(...css));
    const now = [...css, ...css.map((side) => Math.max(1, Math.round(side * dense)))].join(" ");
    if (now === fitted) return;
    fitted = now;
    paper.style.width = `${css[0]}px`;
    paper.style.height = `${css[1]}px`;
    for (const layer of [base, canvas]) [layer.width, layer.height] = now.split(" ").slice(2).map(Number);
    stale = true;
    schedule();
  }

  function paint() {
    frame = 0;
    if (!fitted) return;
    if (stale) painter.base(base.getContext("2d"), editor, aspect(), pixels());
    stale = false;
    const context = canvas.getContext("2d");
    context.save();
    context.clearRect(0, 0, canvas.width, canvas.height);
    painter.live(context, editor, aspect(), pixels(), hover);
    context.restore();
  }

  function schedule() {
    if (!frame) frame = requestAnimationFrame(paint);
  }

  /** Where the pointer is, in fractions of the image and in unit space. rect: the canvas's place on the page. */
  function pointOf(event, rect) {
    const at = [(event.clientX - rect.left) / rect.width, (event.clientY - rect.top) / rect.height];
    const [ax, ay] = aspect();
    const pen = event.pointerType === "pen";
    const near = event.pointerType === "touch" ? FINGER : POINTER;
    return {
      at, unit: [at[0] * ax, at[1] * ay], pen, pressure: pen ? event.pressure : 1, shift: event.shiftKey,
      slack: (near / rect.width) * ax, twice: event.detail > 1,
    };
  }

  function settle(over) {
    if (over) editor.gesture = null;
    stale = true;
    schedule();
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || pointer !== null) return;
    fit();
    canvas.focus({ preventScroll: true });
    if (editor.problem) return;
    pointer = { id: event.pointerId, rect: canvas.getBoundingClientRect() };
    try {
      canvas.setPointerCapture(event.pointerId);
    } catch {
      // a synthetic pointer cannot be captured; it is followed on the canvas alone
    }
    const p = pointOf(event, pointer.rect);
    if (editor.gesture) settle(editor.gesture.down?.(p));
    else {
      editor.gesture = tools[editor.view.tool](editor, p, aspect());
      settle(false);
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    if (pointer && event.pointerId !== pointer.id) return; // a second finger
    const rect = pointer?.rect ?? canvas.getBoundingClientRect();
    if (editor.gesture) {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) editor.gesture.move(pointOf(one, rect));
    }
    hover = event.pointerType === "touch" ? null : pointOf(event, rect);
    schedule();
  });
  const release = (event) => {
    if (pointer?.id !== event.pointerId) return false;
    pointer = null;
    return true;
  };
  canvas.addEventListener("pointerup", (event) => {
    const rect = pointer?.rect;
    if (release(event) && editor.gesture) settle(editor.gesture.up(pointOf(event, rect)));
  });
  canvas.addEventListener("pointercancel", (event) => {
    if (release(event)) editor.cancel();
  });
  canvas.addEventListener("pointerenter", fit);
  canvas.addEventListener("pointerleave", () => {
    hover = null;
    schedule();
  });
  picture.addEventListener("load", () => (picture.hidden = false));
  picture.addEventListener("error", () => (picture.hidden = true));

  const resized = new ResizeObserver(fit);
  resized.observe(element);
  const ends = [() => resized.disconnect(), whenDecoded(() => settle(false)), editor.listen((what) => {
    if (what !== "value" && what !== "view") return;
    stale = true;
    if (what === "value") canvas.setAttribute("aria-label", label());
    schedule();
  })];
  return {
    element,
    canvas,
    /** After a change of the image's size, or of the colours around. */
    refresh() {
      fit();
      stale = true;
      schedule();
    },
    /** url: of a picture to lay under the drawing, or null. */
    setBackground(url) {
      if ((picture.getAttribute("src") ?? null) === url) return;
      picture.hidden = true;
      if (url) picture.src = url;
      else picture.removeAttribute("src");
    },
    dim: (opacity) => (picture.style.opacity = opacity),
    end: () => ends.forEach((end) => end()),
  };
}
