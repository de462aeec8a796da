// The drawing tools of the highlight canvas. A tool takes what the pointer began with and gives a gesture:
// { move(p), up(p) -> true when over, down?(p) for a gesture of several clicks, key?(event), draft?, paint?(context, size) }.
// p: { at: [x, y] in fractions, unit: the same in unit space, pressure, pen, shift, slack, twice }.

import { colorOf } from "./document.js";
import { addHighlight, addShapes, erase, patchHighlight } from "./edits.js";
import { clamp, hits, onCanvas, round, toUnit } from "./geometry.js";
import { drawHighlight, drawShapes } from "./paint.js";
import { strokesFrom } from "./strokes.js";

const inside = ([x, y]) => [round(clamp(x, 0, 1)), round(clamp(y, 0, 1))];

/** The index of the highlight that is drawn into: the active one, or where the new one will be. */
const target = (editor) => Math.min(editor.view.active, editor.value.highlights.length);

function colorAt(editor, index) {
  const { highlights } = editor.value;
  return highlights[index] ? colorOf(highlights[index], index) : colorOf(addHighlight(editor.value).highlights[index], index);
}

/** Puts finished shapes into the active highlight, making one where there is none. */
function finish(editor, shapes) {
  shapes = shapes.filter(onCanvas);
  if (!shapes.length) return;
  let { value } = editor;
  const index = target(editor);
  if (!value.highlights[index]) value = addHighlight(value);
  const highlight = addShapes(value.highlights[index], shapes, editor.view.separate);
  if (!highlight) return editor.say("This highlight is full. Use fewer, longer strokes, or another highlight.");
  editor.edit(patchHighlight(value, index, { instances: highlight.instances, hidden: false }), {
    active: index, separate: false,
  });
}

function paintDraft(editor, shapes) {
  const index = target(editor);
  const color = colorAt(editor, index);
  return (context, { width, height }) => {
    drawHighlight(context, { instances: [{ shapes: shapes() }] }, color, 0.75, width, height);
  };
}

export function strokeTool(editor, p, aspect) {
  const { width, smoothing, pressure } = editor.view;
  const pressed = pressure && p.pen;
  const samples = [[...p.at, p.pressure]];
  const color = colorAt(editor, target(editor));
  return {
    move(q) {
      samples.push([...q.at, q.pressure]);
    },
    up() {
      finish(editor, strokesFrom(samples, width, smoothing, pressed, aspect));
      return true;
    },
    paint(context, size) {
      context.globalAlpha = 0.75;
      const line = [{ type: "stroke", points: samples, width }];
      drawShapes(context, pressed ? strokesFrom(samples, width, 0, true, aspect) : line, color, size.width, size.height);
    },
  };
}

export function boxTool(editor, p, aspect) {
  const from = inside(p.at);
  let to = from;
  const box = () => {
    const [x0, x1] = [from[0], to[0]].sort((a, b) => a - b), [y0, y1] = [from[1], to[1]].sort((a, b) => a - b);
    return { type: "box", box: [x0, y0, x1, y1] };
  };
  return {
    move(q) {
      const dx = q.unit[0] - p.unit[0], dy = q.unit[1] - p.unit[1];
      const side = Math.max(Math.abs(dx), Math.abs(dy));
      const square = [p.unit[0] + Math.sign(dx) * side, p.unit[1] + Math.sign(dy) * side];
      to = inside(q.shift ? square.map((value, k) => value / aspect[k]) : q.at);
    },
    up() {
      const shape = box();
      const [x0, y0, x1, y1] = shape.box;
      if (x1 - x0 >= 0.005 && y1 - y0 >= 0.005) finish(editor, [shape]);
      return true;
    },
    paint: paintDraft(editor, () => [box()]),
  };
}

/** Click for click; back on the first corner, a double click or Enter closes it. Escape gives it up. */
export function polygonTool(editor, p, aspect) {
  let corners = [p.at.map(round)], next = p.at, over = false;
  const color = colorAt(editor, target(editor));
  const close = () => {
    over = true;
    if (corners.length > 2) finish(editor, [{ type: "polygon", points: corners }]);
    return true;
  };
  return {
    down(q) {
      const first = toUnit(corners[0], aspect);
      if (corners.length > 2 && Math.hypot(q.unit[0] - first[0], q.unit[1] - first[1]) <= q.slack) return close();
      const last = corners[corners.length - 1];
      const corner = q.at.map(round);
      if (corner[0] !== last[0] || corner[1] !== last[1]) corners = [...corners, corner];
      return q.twice ? close() : false;
    },
    move(q) {
      next = q.at;
    },
    up: () => over,
    key(event) {
      if (event.key === "Enter") return close();
      if (event.key === "Backspace" && corners.length > 1) corners = corners.slice(0, -1);
      return false;
    },
    paint(context, { width, height, unit }) {
      const trace = [...corners, next];
      context.globalAlpha = 0.45;
      if (trace.length > 2) drawShapes(context, [{ type: "polygon", points: trace }], color, width, height);
      context.globalAlpha = 1;
      context.strokeStyle = color;
      context.lineWidth = 2 * unit;
      context.beginPath();
      for (const [x, y] of trace) context.lineTo(x * width, y * height);
      context.stroke();
      context.fillStyle = "#fff";
      for (const [x, y] of corners) context.fillRect(x * width - 3 * unit, y * height - 3 * unit, 6 * unit, 6 * unit);
    },
  };
}

/** Works on the active highlight alone: cuts strokes, takes out boxes and polygons that it touches. */
export function eraserTool(editor, p, aspect) {
  const index = target(editor);
  const before = editor.value.highlights[index];
  if (!before) return null;
  const radius = editor.view.width / 2;
  const color = colorOf(before, index);
  let now = before, last = p;
  const at = (point) => {
    now = erase(now, point, radius, aspect, (shape) => (
      shape.type === "mask" ? false : hits(shape, point, radius, aspect)));
  };
  at(p.at);
  return {
    draft: index,
    move(q) {
      const steps = clamp(Math.ceil(Math.hypot(q.unit[0] - last.unit[0], q.unit[1] - last.unit[1]) / (radius / 2)), 1, 200);
      for (let i = 1; i <= steps; i++) at(last.at.map((value, k) => value + (i / steps) * (q.at[k] - value)));
      last = q;
    },
    up() {
      if (now !== before) editor.edit(patchHighlight(editor.value, index, { instances: now.instances }));
      return true;
    },
    paint(context, { width, height }) {
      drawHighlight(context, now, color, 0.65, width, height);
    },
  };
}
