// Edits of the highlights document: each takes a document and gives a new one that shares what did not change.

import { LIMITS, PALETTE, newHighlight } from "./document.js";
import { cut, onCanvas } from "./geometry.js";

const replaced = (items, index, ...by) => [...items.slice(0, index), ...by, ...items.slice(index + 1)];

/** The document with highlight `index` changed by `patch`; patch null takes it out. */
export function patchHighlight(document, index, patch) {
  const changed = patch ? [{ ...document.highlights[index], ...patch }] : [];
  return { ...document, highlights: replaced(document.highlights, index, ...changed) };
}

/** With a new highlight at the end, in the first colour of the palette that no other has. */
export function addHighlight(document, phrase = "") {
  const used = new Set(document.highlights.map((highlight) => highlight.color));
  const color = PALETTE.find((code) => !used.has(code)) ?? PALETTE[document.highlights.length % PALETTE.length];
  return { ...document, highlights: [...document.highlights, newHighlight(phrase, color)] };
}

/** With highlight `index` moved to the place `to`. */
export function reorder(document, index, to) {
  const highlights = replaced(document.highlights, index);
  highlights.splice(to, 0, document.highlights[index]);
  return { ...document, highlights };
}

/** The highlight with more shapes: as a new object (instance), or as parts of its last one. Null where it is full. */
export function addShapes(highlight, shapes, separate) {
  const { instances } = highlight;
  if (separate || !instances.length) {
    return instances.length < LIMITS.instances ? { ...highlight, instances: [...instances, { shapes }] } : null;
  }
  const last = instances[instances.length - 1];
  if (last.shapes.length + shapes.length > LIMITS.shapes) return null;
  return { ...highlight, instances: replaced(instances, instances.length - 1, { shapes: [...last.shapes, ...shapes] }) };
}

/**
 * What is picked up as one thing: the shapes `from` to `to` of an instance. A pen stroke is saved as several strokes
 * of different widths, each beginning where the one before ends; they stay together.
 */
export function units(instance) {
  const found = [];
  instance.shapes.forEach((shape, i) => {
    const before = instance.shapes[i - 1];
    const end = before?.type === "stroke" && before.points[before.points.length - 1];
    const start = shape.type === "stroke" && shape.points[0];
    if (end && start && end[0] === start[0] && end[1] === start[1]) found[found.length - 1].to = i;
    else found.push({ from: i, to: i });
  });
  return found;
}

export const unitShapes = (highlight, unit) => (
  highlight.instances[unit.instance]?.shapes.slice(unit.from, unit.to + 1) ?? []
);

/** The highlight with the unit's shapes replaced; an instance left without shapes goes. */
export function replaceUnit(highlight, unit, shapes) {
  const { instances } = highlight;
  const old = instances[unit.instance].shapes;
  const left = [...old.slice(0, unit.from), ...shapes, ...old.slice(unit.to + 1)];
  return { ...highlight, instances: replaced(instances, unit.instance, ...(left.length ? [{ shapes: left }] : [])) };
}

/** The highlight with the unit made an object of its own, or null where it is one already. */
export function separateUnit(highlight, unit) {
  const whole = highlight.instances[unit.instance].shapes.length === unit.to - unit.from + 1;
  if (whole || highlight.instances.length >= LIMITS.instances) return null;
  const rest = replaceUnit(highlight, unit, []);
  return { ...rest, instances: [...rest.instances, { shapes: unitShapes(highlight, unit) }] };
}

/**
 * The highlight less what a disc covers: strokes are cut, boxes and polygons that `touches` names go whole.
 * The same object where nothing was met.
 */
export function erase(highlight, centre, radius, aspect, touches) {
  let met = false;
  const instances = highlight.instances.map((instance) => {
    const shapes = instance.shapes.flatMap((shape) => {
      const pieces = shape.type === "stroke" ? cut(shape, centre, radius + shape.width / 2, aspect)
        : touches(shape) ? [] : null;
      met ||= pieces !== null;
      return pieces?.filter(onCanvas) ?? [shape];
    });
    return shapes.length <= LIMITS.shapes ? { shapes } : instance;
  });
  return met ? { ...highlight, instances: instances.filter((instance) => instance.shapes.length) } : highlight;
}
