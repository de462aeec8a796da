// Plane geometry of shapes. Points are [x, y] in fractions of the image; lengths (stroke width, radius, tolerance) are
// in units of the image's short side. `aspect` = [width / short side, height / short side] turns the first into the
// second: unit space, where a circle is round.

export const aspectOf = (width, height) => {
  const short = Math.min(width, height);
  return [width / short, height / short];
};

export const round = (value) => Math.round(value * 1e4) / 1e4;
export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const toUnit = ([x, y], [ax, ay]) => [x * ax, y * ay];
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

/** Distance from p to the segment a-b, all in unit space. */
export function segmentDistance(p, a, b) {
  const dx = b[0] - a[0], dy = b[1] - a[1];
  const length = dx * dx + dy * dy;
  const t = length ? clamp(((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / length, 0, 1) : 0;
  return Math.hypot(p[0] - a[0] - t * dx, p[1] - a[1] - t * dy);
}

function lineDistance(p, points, aspect) {
  let nearest = Infinity, last = toUnit(points[0], aspect);
  for (let i = 0; i < points.length; i++) {
    const next = toUnit(points[i], aspect);
    nearest = Math.min(nearest, segmentDistance(p, last, next));
    last = next;
  }
  return nearest;
}

/** Samples [x, y, pressure] at equal steps along the line, so that smoothing does not depend on the mouse's speed. */
export function resample(samples, step, aspect) {
  const result = [samples[0]];
  let left = step;
  for (let i = 1; i < samples.length; i++) {
    const from = samples[i - 1], to = samples[i];
    const length = distance(toUnit(from, aspect), toUnit(to, aspect));
    while (left <= length && length > 0) {
      const t = left / length;
      result.push(from.map((value, k) => value + t * (to[k] - value)));
      left += step;
    }
    left -= length;
  }
  const last = samples[samples.length - 1];
  if (samples.length > 1 && distance(last, result[result.length - 1]) > 1e-9) result.push(last);
  return result;
}

/** `passes` times the mean of each sample and its neighbours (1, 2, 1); the ends stay. */
export function smooth(samples, passes) {
  const columns = samples[0].map((_, k) => {
    let now = Float64Array.from(samples, (sample) => sample[k]), next = now.slice();
    for (let pass = 0; pass < passes; pass++) {
      for (let i = 1; i < now.length - 1; i++) next[i] = (now[i - 1] + 2 * now[i] + now[i + 1]) / 4;
      [now, next] = [next, now];
    }
    return now;
  });
  return samples.map((_, i) => columns.map((column) => column[i]));
}

/** Leaves out points that lie within `tolerance` of the line without them (Ramer-Douglas-Peucker). */
export function simplify(points, tolerance, aspect) {
  const unit = points.map((p) => toUnit(p, aspect));
  const keep = new Uint8Array(points.length);
  keep[0] = keep[points.length - 1] = 1;
  const stack = [[0, points.length - 1]];
  while (stack.length) {
    const [from, to] = stack.pop();
    let worst = tolerance, at = -1;
    for (let i = from + 1; i < to; i++) {
      const away = segmentDistance(unit[i], unit[from], unit[to]);
      if (away > worst) [worst, at] = [away, i];
    }
    if (at > 0) {
      keep[at] = 1;
      stack.push([from, at], [at, to]);
    }
  }
  return points.filter((_, i) => keep[i]);
}

/** Is p (fractions) in the polygon? Even-odd rule. */
export function inPolygon([x, y], points) {
  let inside = false;
  for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
    const [ax, ay] = points[i], [bx, by] = points[j];
    if ((ay > y) !== (by > y) && x < ax + ((y - ay) / (by - ay)) * (bx - ax)) inside = !inside;
  }
  return inside;
}

/** Is p (fractions) on the shape, or within `slack` of it? A mask cannot be picked up. */
export function hits(shape, p, slack, aspect) {
  if (shape.type === "stroke") return lineDistance(toUnit(p, aspect), shape.points, aspect) <= shape.width / 2 + slack;
  if (shape.type === "polygon") {
    return inPolygon(p, shape.points)
      || lineDistance(toUnit(p, aspect), [...shape.points, shape.points[0]], aspect) <= slack;
  }
  if (shape.type !== "box") return false;
  const [x0, y0, x1, y1] = shape.box;
  const sx = slack / aspect[0], sy = slack / aspect[1];
  return p[0] >= x0 - sx && p[0] <= x1 + sx && p[1] >= y0 - sy && p[1] <= y1 + sy;
}

/** [x0, y0, x1, y1] in fractions of the shapes' points and corners (a stroke's width is left out). */
export function bounds(shapes) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (const shape of shapes) {
    const corners = shape.type === "box" ? [shape.box.slice(0, 2), shape.box.slice(2)]
      : shape.points ?? [[0, 0], [1, 1]];
    for (const [x, y] of corners) {
      box[0] = Math.min(box[0], x);
      box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x);
      box[3] = Math.max(box[3], y);
    }
  }
  return box;
}

/** The shape with every point moved by `map`, rounded. Boxes keep left < right and top < bottom. */
export function mapped(shape, map) {
  const moved = (p) => map(p).map(round);
  if (shape.points) return { ...shape, points: shape.points.map(moved) };
  if (!shape.box) return shape;
  const [ax, ay] = moved(shape.box.slice(0, 2)), [bx, by] = moved(shape.box.slice(2));
  return { ...shape, box: [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)] };
}

/** The parts of a stroke's line that lie outside a disc: a list of strokes, or null where the disc misses it. */
export function cut(stroke, centre, radius, aspect) {
  const c = toUnit(centre, aspect);
  if (stroke.points.length === 1) return distance(toUnit(stroke.points[0], aspect), c) < radius ? [] : null;
  const pieces = [];
  let piece = [], missed = true;
  const end = () => {
    if (piece.length > 1) pieces.push({ ...stroke, points: piece });
    piece = [];
  };
  const at = (a, b, t) => [round(a[0] + t * (b[0] - a[0])), round(a[1] + t * (b[1] - a[1]))];
  for (let i = 1; i < stroke.points.length; i++) {
    const a = stroke.points[i - 1], b = stroke.points[i];
    if (i === 1) piece = [a];
    const [enter, leave] = chord(toUnit(a, aspect), toUnit(b, aspect), c, radius);
    if (enter >= leave || enter >= 1 || leave <= 0) {
      piece.push(b);
      continue;
    }
    missed = false;
    if (enter > 0) piece.push(at(a, b, enter));
    else if (piece.length === 1) piece = [];
    end();
    if (leave < 1) piece = [at(a, b, leave), b];
  }
  if (missed) return null;
  end();
  return pieces;
}

/** Where the line a + t (b - a) runs inside the disc: [from, to]; empty (from >= to) where it does not. */
function chord(a, b, centre, radius) {
  const d = [b[0] - a[0], b[1] - a[1]], f = [a[0] - centre[0], a[1] - centre[1]];
  const qa = d[0] * d[0] + d[1] * d[1], qb = f[0] * d[0] + f[1] * d[1], qc = f[0] * f[0] + f[1] * f[1] - radius * radius;
  if (qa === 0) return qc < 0 ? [0, 1] : [1, 0];
  const root = qb * qb - qa * qc;
  if (root <= 0) return [1, 0];
  return [(-qb - Math.sqrt(root)) / qa, (-qb + Math.sqrt(root)) / qa];
}

/** Does any of the shape lie on the canvas? Python refuses shapes that do not. */
export function onCanvas(shape) {
  if (shape.type === "mask") return true;
  if (shape.type === "box") {
    const [x0, y0, x1, y1] = shape.box;
    return Math.min(x1, 1) - Math.max(x0, 0) >= 0.001 && Math.min(y1, 1) - Math.max(y0, 0) >= 0.001;
  }
  const { points } = shape;
  if (shape.type === "polygon") {
    if (flat(points)) return false;
    return [...points, points[0]].some((p, i, all) => i && enters(all[i - 1], p, 0.002)) || inPolygon([0.5, 0.5], points);
  }
  return points.length === 1 ? enters(points[0], points[0], 0)
    : points.some((p, i) => i && enters(points[i - 1], p, 0));
}

const flat = (points) => {
  const a = points[0];
  const b = points.reduce((far, p) => (distance(p, a) > distance(far, a) ? p : far), a);
  return points.every((p) => Math.abs((b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])) <= 1e-4 * distance(a, b));
};

function enters(a, b, inset) {
  let from = 0, to = 1;
  for (let k = 0; k < 2; k++) {
    const step = b[k] - a[k], low = inset - a[k], high = 1 - inset - a[k];
    if (step === 0) {
      if (low > 0 || high < 0) return false;
      continue;
    }
    from = Math.max(from, Math.min(low / step, high / step));
    to = Math.min(to, Math.max(low / step, high / step));
    if (from > to) return false;
  }
  return true;
}
