// The second kind of drawing: Gaussian blobs that say where viewers should look and where not.
// Value: {"version": 1, "blobs": [{"x", "y", "sx", "sy", "angle", "amplitude", "mode"}]}
//   x, y: centre in fractions of width and height; sx, sy: standard deviations across and along, in fractions of the
//   short side; angle: degrees, clockwise on the screen; amplitude 0..1; mode: "attract" or "suppress".

import { VERSION, fail, list, number, object, readJSON } from "./document.js";
import { clamp, round } from "./geometry.js";
import { between, drawFrame, handleAt, local, stretched, turned } from "./frame.js";

const MOST = 64;
const LEAST = 0.005; // of a standard deviation
const REACH = 2; // standard deviations: where the frame is drawn and a blob can be picked up
const MODES = { attract: "#ff9d2e", suppress: "#3d8bff" };
const KEYS = ["x", "y", "sx", "sy", "angle", "amplitude", "mode"];

export const blobKind = {
  empty: () => ({ blobs: [] }),
  parse(text) {
    if (typeof text === "string" && !text.trim()) return blobKind.empty();
    const value = object(readJSON(text), "saliency drawing", ["version", "blobs"]);
    if (value.version !== VERSION) fail("version", String(value.version).slice(0, 20), VERSION);
    return { blobs: list(value.blobs, "blobs", 0, MOST, "blobs").map((blob, i) => readBlob(blob, `blobs[${i}]`)) };
  },
  serialize: (value) => JSON.stringify({ version: VERSION, blobs: value.blobs }),
};

function readBlob(value, path) {
  const { x, y, sx, sy, angle = 0, amplitude = 1, mode = "attract" } = object(value, path, KEYS);
  number(x, `${path}.x`, -1, 2);
  number(y, `${path}.y`, -1, 2);
  number(sx, `${path}.sx`, LEAST, 4);
  number(sy, `${path}.sy`, LEAST, 4);
  number(angle, `${path}.angle`, -360, 360);
  number(amplitude, `${path}.amplitude`, 0, 1);
  if (!Object.hasOwn(MODES, mode)) fail(`${path}.mode`, "another mode", "attract or suppress");
  return { x, y, sx, sy, angle, amplitude, mode };
}

/** A Gaussian's value (at most its amplitude) at p in unit space. */
export function blobAt(blob, p, aspect) {
  const [across, along] = local(frameOf(blob, aspect), p);
  return blob.amplitude * Math.exp(-0.5 * ((across / blob.sx) ** 2 + (along / blob.sy) ** 2));
}

const frameOf = (blob, [ax, ay]) => (
  { centre: [blob.x * ax, blob.y * ay], half: [blob.sx * REACH, blob.sy * REACH], angle: blob.angle }
);

const fromFrame = (blob, { centre, half, angle }, [ax, ay]) => ({
  ...blob,
  x: round(clamp(centre[0] / ax, 0, 1)),
  y: round(clamp(centre[1] / ay, 0, 1)),
  sx: round(clamp(half[0] / REACH, LEAST, 4)),
  sy: round(clamp(half[1] / REACH, LEAST, 4)),
  angle: Math.round(angle * 10) / 10,
});

/** The drawing with blob `index` changed by `patch`; null takes it out; an index beyond the last adds one. */
export function patchBlob(value, index, patch) {
  const blobs = [...value.blobs];
  if (patch) blobs[index] = { ...blobs[index], ...patch };
  else blobs.splice(index, 1);
  return { ...value, blobs };
}

/** Drags a blob by its body, pulls its handles, or draws a new one out from its centre. */
export function blobTool(editor, p, aspect) {
  const { blobs } = editor.value;
  let index = editor.view.active, handle = null, made = false;
  if (blobs[index]) handle = handleAt(frameOf(blobs[index], aspect), p.unit, p.slack, 0, true);
  if (!handle) {
    const inside = (blob) => Math.hypot(...between(frameOf(blob, aspect), UNIT)(p.unit)) <= 1;
    index = blobs.findLastIndex(inside);
    made = index < 0;
    if (made) {
      if (blobs.length >= MOST) return editor.say(`There is no room for more than ${MOST} blobs.`) ?? null;
      index = blobs.length;
    }
  }
  const { mode, amplitude } = editor.view;
  const start = blobs[index] ?? { x: p.at[0], y: p.at[1], sx: 0.12, sy: 0.12, angle: 0, amplitude, mode };
  const frame = frameOf(start, aspect);
  editor.set({ active: index });
  let now = fromFrame(start, frame, aspect), changed = made;
  return {
    draft: index,
    move(q) {
      changed = true;
      let to;
      if (made) {
        const away = Math.max(0.03, Math.hypot(q.unit[0] - p.unit[0], q.unit[1] - p.unit[1]));
        to = { ...frame, half: [away, away] };
      } else if (handle === "turn") to = turned(frame, q.unit, q.shift);
      else if (handle) to = stretched(frame, handle, q.unit, { about: "centre", even: q.shift });
      else to = { ...frame, centre: [0, 1].map((k) => frame.centre[k] + q.unit[k] - p.unit[k]) };
      now = fromFrame(start, to, aspect);
    },
    up() {
      if (changed) editor.edit(patchBlob(editor.value, index, now), { active: index });
      return true;
    },
    paint(context, size) {
      drawBlob(context, now, aspect, size);
      drawFrame(context, frameOf(now, aspect), 0, true, Math.min(size.width, size.height), size.unit);
    },
  };
}

const UNIT = { centre: [0, 0], half: [1, 1], angle: 0 };

function drawBlob(context, blob, aspect, { width, height, unit }) {
  const scale = Math.min(width, height);
  const { centre, angle } = frameOf(blob, aspect);
  context.save();
  context.translate(centre[0] * scale, centre[1] * scale);
  context.rotate((angle * Math.PI) / 180);
  context.scale(blob.sx * scale, blob.sy * scale);
  const glow = context.createRadialGradient(0, 0, 0, 0, 0, 3);
  for (let i = 0; i <= 12; i++) {
    const opacity = 0.85 * blob.amplitude * Math.exp(-0.5 * (i / 4) ** 2);
    glow.addColorStop(i / 12, `${MODES[blob.mode]}${Math.round(255 * opacity).toString(16).padStart(2, "0")}`);
  }
  context.fillStyle = glow;
  context.fillRect(-3, -3, 6, 6);
  context.beginPath();
  context.arc(0, 0, 1, 0, 2 * Math.PI);
  context.restore();
  context.save();
  context.strokeStyle = MODES[blob.mode];
  context.lineWidth = 1.5 * unit;
  if (blob.mode === "suppress") context.setLineDash([5 * unit, 4 * unit]);
  context.stroke();
  context.restore();
}

export const blobPainter = {
  base(context, editor, aspect, size) {
    context.clearRect(0, 0, size.width, size.height);
    editor.value.blobs.forEach((blob, i) => i !== editor.gesture?.draft && drawBlob(context, blob, aspect, size));
  },
  live(context, editor, aspect, size) {
    const blob = editor.value.blobs[editor.view.active];
    if (editor.gesture) editor.gesture.paint(context, size);
    else if (blob) drawFrame(context, frameOf(blob, aspect), 0, true, Math.min(size.width, size.height), size.unit);
  },
};
