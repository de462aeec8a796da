// A frame around what is selected, with handles to stretch and turn it. All in unit space (short side = 1).
// frame: { centre: [x, y], half: [across, along], angle }, angle in degrees, clockwise on the screen.

const RADIANS = Math.PI / 180;
const TURN = [0, -1.35]; // the turning handle lies above the upper edge

const rotate = ([x, y], angle) => {
  const cos = Math.cos(angle * RADIANS), sin = Math.sin(angle * RADIANS);
  return [x * cos - y * sin, x * sin + y * cos];
};

/** Where a place of the frame ([-1, -1] upper left, [1, 1] lower right) lies. */
export function placeOf(frame, [kx, ky], pad = 0) {
  const [x, y] = rotate([kx * (frame.half[0] + pad), ky * (frame.half[1] + pad)], frame.angle);
  return [frame.centre[0] + x, frame.centre[1] + y];
}

/** The point in the frame's own directions, from its centre. */
export const local = (frame, p) => rotate([p[0] - frame.centre[0], p[1] - frame.centre[1]], -frame.angle);

export const HANDLES = [[-1, -1], [0, -1], [1, -1], [1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0]];

/** The handle at p: one of HANDLES, "turn" (where the frame can turn), or null. */
export function handleAt(frame, p, slack, pad, turns) {
  const near = (place, by) => Math.hypot(p[0] - place[0], p[1] - place[1]) <= by;
  if (turns && near(turnPlace(frame, pad), slack)) return "turn";
  const corners = HANDLES.filter(([kx, ky]) => kx && ky), sides = HANDLES.filter(([kx, ky]) => !kx || !ky);
  return [...corners, ...sides].find((handle) => near(placeOf(frame, handle, pad), slack)) ?? null;
}

export const turnPlace = (frame, pad) => placeOf({ ...frame, half: [frame.half[0], frame.half[1] + 0.03] }, TURN, pad);

/**
 * The frame after its handle was pulled to p. about "centre": both sides follow; otherwise the opposite one stays.
 * even: width and height keep their ratio.
 */
export function stretched(frame, handle, p, { pad = 0, about = "opposite", even = false, least = 0.004 }) {
  const [x, y] = local(frame, p);
  const fixed = about === "centre";
  const half = [0, 1].map((k) => {
    if (!handle[k]) return frame.half[k];
    const reach = handle[k] * [x, y][k] - pad;
    return Math.max(least, fixed ? reach : (reach + frame.half[k]) / 2);
  });
  if (even) {
    const factor = Math.max(...[0, 1].filter((k) => handle[k]).map((k) => half[k] / Math.max(frame.half[k], least)));
    half[0] = frame.half[0] * factor;
    half[1] = frame.half[1] * factor;
  }
  if (fixed) return { ...frame, half };
  const shift = rotate([handle[0] * (half[0] - frame.half[0]), handle[1] * (half[1] - frame.half[1])], frame.angle);
  return { ...frame, half, centre: [frame.centre[0] + shift[0], frame.centre[1] + shift[1]] };
}

/** The frame turned so that its turning handle points at p; with `even`, in steps of 15 degrees. */
export function turned(frame, p, even) {
  const angle = Math.atan2(p[0] - frame.centre[0], frame.centre[1] - p[1]) / RADIANS;
  return { ...frame, angle: even ? Math.round(angle / 15) * 15 : angle };
}

/** Takes points that lay in the frame `from` to where they lie in the frame `to`. */
export function between(from, to) {
  return (p) => {
    const [x, y] = local(from, p);
    return placeOf(to, [x / Math.max(from.half[0], 1e-6), y / Math.max(from.half[1], 1e-6)]);
  };
}

/** Draws the frame with its handles. scale: pixels of a unit; unit: device pixels per CSS pixel. */
export function drawFrame(context, frame, pad, turns, scale, unit) {
  const pixel = (p) => [p[0] * scale, p[1] * scale];
  const trace = () => {
    context.beginPath();
    for (const corner of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) context.lineTo(...pixel(placeOf(frame, corner, pad)));
    context.closePath();
    if (turns) {
      context.moveTo(...pixel(placeOf(frame, [0, -1], pad)));
      context.lineTo(...pixel(turnPlace(frame, pad)));
    }
    context.stroke();
  };
  context.save();
  context.lineWidth = 3 * unit;
  context.strokeStyle = "rgba(0,0,0,.7)";
  trace();
  context.lineWidth = unit;
  context.strokeStyle = "#fff";
  trace();
  context.fillStyle = "#fff";
  context.strokeStyle = "#000";
  const places = HANDLES.map((handle) => placeOf(frame, handle, pad));
  if (turns) places.push(turnPlace(frame, pad));
  for (const place of places) {
    const [x, y] = pixel(place);
    context.beginPath();
    context.rect(x - 4 * unit, y - 4 * unit, 8 * unit, 8 * unit);
    context.fill();
    context.stroke();
  }
  context.restore();
}
