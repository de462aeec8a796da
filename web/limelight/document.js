// The highlights document in the browser: reading, checking, writing. The schema is guidance/document.py's, version 1.
// Documents are never changed in place: an edit makes new objects along its path and shares the rest, so that undo is
// cheap and what was written or painted for an untouched part can be kept (WeakMap).

export const VERSION = 1;
export const LIMITS = {
  highlights: 64, instances: 64, shapes: 256, points: 10000, phrase: 500, strength: 10, occurrence: 1000,
  coordinate: 10, extent: 0.001, text: 32e6,
};
export const DEFAULT_WIDTH = 0.06;
export const PALETTE = [
  "#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#42d4f4",
  "#f032e6", "#bfef45", "#fabed4", "#469990", "#9a6324", "#ffe119",
];

/** What is wrong with a text, in words for the person: where, what was found, what was expected. */
export class DocumentError extends Error {}

export const empty = () => ({ highlights: [] });

export const newHighlight = (phrase = "", color = null) => (
  { phrase, occurrence: 1, strength: 1, color, hidden: false, instances: [] }
);

/** The colour on the canvas: its own, or the palette's for its place in the list (as guidance/overlay.py does). */
export const colorOf = (highlight, index) => highlight.color ?? PALETTE[index % PALETTE.length];

/** A short, harmless form of any value for a message. */
export function show(value) {
  if (value === null || value === undefined) return "nothing";
  if (typeof value === "string") return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return Array.isArray(value) ? "a list" : "an object";
}

export function fail(path, found, expected) {
  throw new DocumentError(`${path}: found ${found}; expected ${expected}.`);
}

/** An object with no keys but `keys`; a misspelt key would otherwise be lost without a word. */
export function object(value, path, keys) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) fail(path, show(value), "an object");
  for (const key of Object.keys(value)) {
    if (!keys.includes(key)) fail(path, `the unknown key ${show(key)}`, keys.join(", "));
  }
  return value;
}

export function list(value, path, least, most, of) {
  if (!Array.isArray(value)) fail(path, show(value), `a list of ${of}`);
  if (value.length < least || value.length > most) fail(path, `${value.length} ${of}`, `${least} to ${most}`);
  return value;
}

export function number(value, path, low, high) {
  if (typeof value !== "number" || !(value >= low && value <= high)) {
    fail(path, show(value), `a number from ${low} to ${high}`);
  }
  return value;
}

/** JSON text -> any value; says in words what is wrong with the text itself. */
export function readJSON(text) {
  if (typeof text !== "string") fail("text", show(text), "a drawing as JSON text");
  if (text.length > LIMITS.text) fail("text", `${text.length} characters`, `at most ${LIMITS.text}`);
  try {
    return JSON.parse(text);
  } catch (error) {
    const said = String(error.message).slice(0, 120);
    throw new DocumentError(`text: not valid JSON (${said}). It may have been cut off, or edited by hand.`);
  }
}

/** JSON text (blank: an empty drawing) -> document. Throws DocumentError. */
export function parse(text) {
  if (typeof text === "string" && !text.trim()) return empty();
  const value = object(readJSON(text), "highlights document", ["version", "highlights"]);
  if (value.version !== VERSION) fail("version", show(value.version), `${VERSION}; a newer Limelight may have made it`);
  const highlights = list(value.highlights, "highlights", 0, LIMITS.highlights, "highlights");
  return { highlights: highlights.map((item, i) => readHighlight(item, `highlights[${i}]`)) };
}

function readHighlight(value, path) {
  object(value, path, ["phrase", "occurrence", "strength", "color", "hidden", "instances"]);
  const { phrase, occurrence = 1, strength = 1, hidden = false } = value;
  const color = value.color ?? null;
  if (typeof phrase !== "string" || phrase.length > LIMITS.phrase) {
    fail(`${path}.phrase`, show(phrase), `a text of at most ${LIMITS.phrase} characters`);
  }
  if (!Number.isInteger(occurrence)) fail(`${path}.occurrence`, show(occurrence), "a whole number");
  number(occurrence, `${path}.occurrence`, 1, LIMITS.occurrence);
  number(strength, `${path}.strength`, 0, LIMITS.strength);
  if (color !== null && !(typeof color === "string" && /^#[0-9a-f]{6}$/i.test(color))) {
    fail(`${path}.color`, show(color), "a colour such as #e6194b");
  }
  if (typeof hidden !== "boolean") fail(`${path}.hidden`, show(hidden), "true or false");
  const instances = list(value.instances, `${path}.instances`, 0, LIMITS.instances, "instances").map((item, i) => {
    const where = `${path}.instances[${i}]`;
    object(item, where, ["shapes"]);
    const shapes = list(item.shapes, `${where}.shapes`, 1, LIMITS.shapes, "shapes");
    return { shapes: shapes.map((shape, k) => readShape(shape, `${where}.shapes[${k}]`)) };
  });
  return { phrase, occurrence, strength, color, hidden, instances };
}

function readShape(value, path) {
  const kind = value?.type;
  if (kind === "stroke") {
    object(value, path, ["type", "points", "width"]);
    const width = number(value.width ?? DEFAULT_WIDTH, `${path}.width`, LIMITS.extent, 1);
    return { type: kind, points: readPoints(value.points, `${path}.points`, 1), width };
  }
  if (kind === "polygon") {
    object(value, path, ["type", "points"]);
    return { type: kind, points: readPoints(value.points, `${path}.points`, 3) };
  }
  if (kind === "box") {
    object(value, path, ["type", "box"]);
    const box = list(value.box, `${path}.box`, 4, 4, "numbers (left, top, right, bottom)");
    box.forEach((edge, i) => number(edge, `${path}.box[${i}]`, -LIMITS.coordinate, LIMITS.coordinate));
    if (!(box[2] - box[0] >= LIMITS.extent && box[3] - box[1] >= LIMITS.extent)) {
      fail(`${path}.box`, "a box without area", "left, top, right, bottom in this order");
    }
    return { type: kind, box: [...box] };
  }
  if (kind === "mask") {
    object(value, path, ["type", "png"]);
    const { png } = value;
    if (typeof png !== "string" || !/^[A-Za-z0-9+/]+={0,2}$/.test(png)) fail(`${path}.png`, show(png), "base64 text");
    return { type: kind, png };
  }
  return fail(path, `the type ${show(kind)}`, "stroke, box, polygon or mask");
}

function readPoints(value, path, least) {
  return list(value, path, least, LIMITS.points, "points").map((point, i) => {
    const where = `${path}[${i}]`;
    const [x, y] = list(point, where, 2, 2, "numbers (x, y)");
    const far = LIMITS.coordinate;
    return [number(x, `${where}[0]`, -far, far), number(y, `${where}[1]`, -far, far)];
  });
}

const written = new WeakMap();

/** Runs `write` once for each object and keeps its text: a stroke among thousands costs only its own. */
function kept(item, write) {
  let text = written.get(item);
  if (text === undefined) written.set(item, (text = write(item)));
  return text;
}

const writeShape = (shape) => kept(shape, JSON.stringify);
const writeInstance = (instance) => kept(instance, () => `{"shapes":[${instance.shapes.map(writeShape).join(",")}]}`);
const writeHighlight = (highlight) => kept(highlight, () => {
  const { phrase, occurrence, strength, color, hidden, instances } = highlight;
  const head = { phrase };
  if (occurrence !== 1) head.occurrence = occurrence;
  if (strength !== 1) head.strength = strength;
  if (color !== null) head.color = color;
  if (hidden) head.hidden = true;
  return `${JSON.stringify(head).slice(0, -1)},"instances":[${instances.map(writeInstance).join(",")}]}`;
});

/** document -> JSON text; what is at its default is left out. */
export const serialize = (document) => (
  `{"version":${VERSION},"highlights":[${document.highlights.map(writeHighlight).join(",")}]}`
);

const mention = ({ phrase, occurrence }) => `${occurrence} ${phrase.toLowerCase().split(/\s+/).filter(Boolean).join(" ")}`;

/** What would stop the run or do nothing, one text ("" if all is well) for each highlight, in words for the person. */
export function complaints(document, prompt = "") {
  const seen = new Set();
  const text = ` ${words(prompt)} `;
  return document.highlights.map((highlight) => {
    if (highlight.hidden) return "";
    if (!highlight.phrase.trim()) return "Write the words of the prompt that this highlight is for.";
    if (!highlight.instances.length) return "Nothing is drawn for this phrase yet.";
    const key = mention(highlight);
    if (seen.has(key)) return "This phrase has a highlight already. Merge them, or choose another mention.";
    seen.add(key);
    if (text.trim() && !text.includes(` ${words(highlight.phrase)} `)) return "The connected prompt does not say this phrase.";
    return "";
  });
}

const words = (text) => text.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean).join(" ");
