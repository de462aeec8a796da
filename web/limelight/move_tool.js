// Picks up, moves and scales shapes of the highlight canvas.

import { colorOf } from "./document.js";
import { patchHighlight, replaceUnit, unitShapes, units } from "./edits.js";
import { bounds, clamp, hits, mapped, onCanvas } from "./geometry.js";
import { drawHighlight } from "./paint.js";
import { between, handleAt, stretched } from "./frame.js";

/** The selection's shapes; [] where there is none, or no longer. */
export function selected(editor) {
  const unit = editor.view.selection;
  const highlight = unit && editor.value.highlights[unit.highlight];
  return highlight ? unitShapes(highlight, unit) : [];
}

/** The frame around shapes, in unit space, and the padding for the width of their strokes. */
export function frameOf(shapes, [ax, ay]) {
  const [x0, y0, x1, y1] = bounds(shapes);
  const pad = Math.max(0.01, ...shapes.map((shape) => (shape.width ?? 0) / 2));
  const frame = { centre: [((x0 + x1) / 2) * ax, ((y0 + y1) / 2) * ay], half: [((x1 - x0) / 2) * ax, ((y1 - y0) / 2) * ay] };
  return { frame: { ...frame, angle: 0 }, pad };
}

/** The unit at p: of the active highlight if possible, else of the topmost one that is shown. */
function unitAt(editor, p, aspect) {
  const { highlights } = editor.value;
  const order = highlights.map((_, i) => i).reverse().filter((i) => !highlights[i].hidden);
  order.sort((a, b) => (b === editor.view.active) - (a === editor.view.active));
  for (const highlight of order) {
    const { instances } = highlights[highlight];
    for (let instance = instances.length - 1; instance >= 0; instance--) {
      for (const unit of units(instances[instance]).reverse()) {
        const found = { highlight, instance, ...unit };
        if (unitShapes(highlights[highlight], found).some((shape) => hits(shape, p.at, p.slack / 2, aspect))) return found;
      }
    }
  }
  return null;
}

/** The document with the selected shapes mapped, or null where one would leave the canvas. */
function moved(editor, map) {
  const unit = editor.view.selection;
  const highlight = editor.value.highlights[unit.highlight];
  const shapes = unitShapes(highlight, unit).map((shape) => mapped(shape, map));
  return shapes.every(onCanvas) ? replaceUnit(highlight, unit, shapes) : null;
}

export function moveTool(editor, p, aspect) {
  const [ax, ay] = aspect;
  let shapes = selected(editor);
  let handle = null;
  if (shapes.length) {
    const { frame, pad } = frameOf(shapes, aspect);
    handle = handleAt(frame, p.unit, p.slack, pad, false);
  }
  if (!handle) {
    const unit = unitAt(editor, p, aspect);
    editor.set({ selection: unit, ...(unit && { active: unit.highlight }) });
    if (!unit) return null;
    shapes = selected(editor);
  }
  const unit = editor.view.selection;
  const { frame, pad } = frameOf(shapes, aspect);
  const color = colorOf(editor.value.highlights[unit.highlight], unit.highlight);
  let now = editor.value.highlights[unit.highlight], changed = false;
  return {
    draft: unit.highlight,
    move(q) {
      const to = handle ? stretched(frame, handle, q.unit, { pad, even: q.shift }) : {
        ...frame, centre: frame.centre.map((from, k) => clamp(from + q.unit[k] - p.unit[k], 0, aspect[k])),
      };
      const take = between(frame, to);
      const next = moved(editor, ([x, y]) => {
        const [ux, uy] = take([x * ax, y * ay]);
        return [ux / ax, uy / ay];
      });
      if (!next) return; // it stays where it last was on the canvas
      [now, changed] = [next, true];
    },
    up() {
      const { instances } = now;
      if (changed) editor.edit(patchHighlight(editor.value, unit.highlight, { instances }), { selection: unit });
      return true;
    },
    shapes: () => unitShapes(now, unit),
    paint(context, { width, height }) {
      drawHighlight(context, now, color, 0.65, width, height);
    },
  };
}

/** Moves the selection by a step (fractions); stops at the border. */
export function nudge(editor, dx, dy) {
  if (!selected(editor).length) return;
  const unit = editor.view.selection;
  const highlight = moved(editor, ([x, y]) => [x + dx, y + dy]);
  if (highlight) {
    editor.edit(patchHighlight(editor.value, unit.highlight, { instances: highlight.instances }), { selection: unit });
  }
}

/** Takes the selected shapes out. -> whether there were any. */
export function removeSelected(editor) {
  if (!selected(editor).length) return false;
  const unit = editor.view.selection;
  const { instances } = replaceUnit(editor.value.highlights[unit.highlight], unit, []);
  editor.edit(patchHighlight(editor.value, unit.highlight, { instances }));
  return true;
}
