// From pointer samples to strokes of the document: smoothed, thinned out, and split where pen pressure changes width.

import { LIMITS } from "./document.js";
import { onCanvas, resample, round, simplify, smooth } from "./geometry.js";

const STEP = 0.004; // between samples before smoothing, in units of the short side
const TOLERANCE = 0.0008; // how far a point that is left out may lie from the line: under half a pixel at 512
const LEVELS = 8; // of pen pressure
const THINNEST = 0.2; // of the brush's width, at no pressure
const MAX_SAMPLES = 6000;
const MOST_PASSES = 100; // of smoothing: a blur of sqrt(100 / 2) * STEP = 0.028 of the short side

/**
 * samples: [x, y, pressure 0..1]; width: the brush's, of the short side; smoothing: 0..1; pressed: whether pressure
 * counts. -> strokes [{type, points, width}], those of one pen stroke end where the next begins; [] if all is outside.
 */
export function strokesFrom(samples, width, smoothing, pressed, aspect) {
  let line = resample(samples, STEP, aspect);
  if (line.length > MAX_SAMPLES) line = resample(samples, (STEP * line.length) / MAX_SAMPLES, aspect);
  line = smooth(line, Math.round(MOST_PASSES * smoothing ** 2));
  const runs = pressed ? pressureRuns(line) : [{ level: LEVELS, points: line }];
  return runs.map(({ level, points }) => ({
    type: "stroke",
    points: distinct(simplify(points, TOLERANCE, aspect).map(([x, y]) => [round(x), round(y)])),
    width: Math.max(round(width * (THINNEST + ((1 - THINNEST) * level) / LEVELS)), LIMITS.extent),
  })).filter(onCanvas);
}

/** Splits the line where the pressure's level changes for good: some play keeps the runs few. */
function pressureRuns(line) {
  const runs = [];
  for (const sample of line) {
    const run = runs[runs.length - 1];
    const wanted = sample[2] * LEVELS;
    if (run && (Math.abs(wanted - run.level) < 0.75 || run.points.length < 4)) {
      run.points.push(sample);
    } else {
      run?.points.push(sample); // the next run begins where this one ends
      runs.push({ level: Math.round(wanted), points: [sample] });
    }
  }
  if (runs.length > 1 && runs[runs.length - 1].points.length === 1) runs.pop();
  return runs;
}

const distinct = (points) => points.filter((p, i) => !i || p[0] !== points[i - 1][0] || p[1] !== points[i - 1][1]);
