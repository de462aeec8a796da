// Shapes to pixels, as guidance/raster.py draws them: strokes with round caps and joins, polygons by the even-odd rule,
// masks stretched over the whole image.

import { colorOf } from "./document.js";
import { bounds } from "./geometry.js";

const paths = new WeakMap();
const masks = new WeakMap();
const waiting = new Set();

/** Called when a mask's picture has been decoded and can be drawn. -> a function that ends it. */
export function whenDecoded(listener) {
  waiting.add(listener);
  return () => waiting.delete(listener);
}

function pathOf(shape, width, height) {
  const known = paths.get(shape);
  if (known?.width === width && known.height === height) return known.path;
  const path = new Path2D();
  const points = shape.points;
  points.forEach(([x, y], i) => (i ? path.lineTo(x * width, y * height) : path.moveTo(x * width, y * height)));
  if (points.length === 1) path.lineTo(points[0][0] * width, points[0][1] * height); // a dot: the caps alone
  if (shape.type === "polygon") path.closePath();
  paths.set(shape, { width, height, path });
  return path;
}

/** The mask's picture as a canvas whose alpha is its gray values; null until it has been decoded. */
function maskOf(shape) {
  const known = masks.get(shape);
  if (known !== undefined) return known;
  masks.set(shape, null);
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    const shrink = Math.min(1, 1024 / Math.max(image.width, image.height));
    canvas.width = Math.max(1, Math.round(image.width * shrink));
    canvas.height = Math.max(1, Math.round(image.height * shrink));
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i];
    context.putImageData(pixels, 0, 0);
    masks.set(shape, canvas);
    for (const listener of waiting) listener();
  };
  image.src = `data:image/png;base64,${shape.png}`;
  return null;
}

/** Draws the shapes opaque in `color` on a canvas of width x height pixels. */
export function drawShapes(context, shapes, color, width, height) {
  context.fillStyle = context.strokeStyle = color;
  context.lineCap = context.lineJoin = "round";
  for (const shape of shapes) {
    if (shape.type === "stroke") {
      context.lineWidth = shape.width * Math.min(width, height);
      context.stroke(pathOf(shape, width, height));
    } else if (shape.type === "polygon") {
      context.fill(pathOf(shape, width, height), "evenodd");
    } else if (shape.type === "box") {
      const [x0, y0, x1, y1] = shape.box;
      context.fillRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
    } else {
      const mask = maskOf(shape);
      if (mask) drawMask(context, mask, color, width, height);
    }
  }
}

function drawMask(context, mask, color, width, height) {
  const layer = new OffscreenCanvas(width, height);
  const paint = layer.getContext("2d");
  paint.drawImage(mask, 0, 0, width, height);
  paint.globalCompositeOperation = "source-in";
  paint.fillStyle = color;
  paint.fillRect(0, 0, width, height);
  context.drawImage(layer, 0, 0);
}

const shapesOf = (highlight) => highlight.instances.flatMap((instance) => instance.shapes);

let scratch = null;

/** Draws one highlight at `opacity`; where its shapes overlap it is no darker. */
export function drawHighlight(context, highlight, color, opacity, width, height) {
  const shapes = shapesOf(highlight);
  if (!shapes.length) return;
  context.save();
  context.globalAlpha = opacity;
  if (shapes.length === 1) {
    drawShapes(context, shapes, color, width, height);
  } else {
    scratch ??= new OffscreenCanvas(1, 1);
    if (scratch.width !== width || scratch.height !== height) [scratch.width, scratch.height] = [width, height];
    const paint = scratch.getContext("2d");
    paint.clearRect(0, 0, width, height);
    drawShapes(paint, shapes, color, width, height);
    context.drawImage(scratch, 0, 0);
  }
  context.restore();
}

/** The phrase above its regions, cut short. Text is drawn as pixels: nothing in it can act. */
export function drawLabel(context, highlight, color, width, height, unit) {
  const shapes = shapesOf(highlight);
  const phrase = highlight.phrase.trim();
  if (!shapes.length || !phrase) return;
  const [x0, y0, x1] = bounds(shapes);
  const size = 11 * unit;
  context.save();
  context.font = `${size}px sans-serif`;
  const text = phrase.length > 28 ? `${phrase.slice(0, 27)}…` : phrase;
  const wide = context.measureText(text).width + size;
  const left = Math.max(0, Math.min(((x0 + x1) / 2) * width - wide / 2, width - wide));
  const top = Math.max(0, Math.min(y0 * height - size * 1.9, height - size * 1.5));
  context.fillStyle = color;
  context.fillRect(left, top, wide, size * 1.5);
  context.fillStyle = bright(color) ? "#000" : "#fff";
  context.textBaseline = "middle";
  context.fillText(text, left + size / 2, top + size * 0.78);
  context.restore();
}

function bright(color) {
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
}

/** The highlight's mask as Python would make it: Uint8ClampedArray (height * width), 255 inside. */
export function maskPixels(highlight, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  drawShapes(context, shapesOf(highlight), "#ffffff", width, height);
  const { data } = context.getImageData(0, 0, width, height);
  return new Uint8ClampedArray(width * height).map((_, i) => data[4 * i + 3]);
}

/**
 * Paints highlights over a cleared canvas: the active one strong and last, the others as ghosts.
 * draft: { index, highlight } that is left to the live layer. unit: device pixels per CSS pixel.
 */
export function paintDocument(context, value, active, draftIndex, width, height, unit) {
  context.clearRect(0, 0, width, height);
  const order = value.highlights.map((_, i) => i).filter((i) => i !== active && i !== draftIndex);
  if (active !== draftIndex && value.highlights[active]) order.push(active);
  const shown = order.filter((i) => !value.highlights[i].hidden);
  for (const i of shown) {
    const highlight = value.highlights[i];
    drawHighlight(context, highlight, colorOf(highlight, i), i === active ? 0.65 : 0.35, width, height);
  }
  for (const i of shown) drawLabel(context, value.highlights[i], colorOf(value.highlights[i], i), width, height, unit);
}
