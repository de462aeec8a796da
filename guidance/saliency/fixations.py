"""Points of gaze from an eye tracker: a table in a text, and the density that they make."""

from __future__ import annotations

import csv
import io
import math

import numpy as np

from ..errors import LimelightError
from .maps import blur, peak

NAMES = {
    "x": ("x", "fpogx", "gaze_x", "fixation_x", "x_px", "pos_x"),
    "y": ("y", "fpogy", "gaze_y", "fixation_y", "y_px", "pos_y"),
    "duration": ("duration", "dur", "fpogd", "duration_ms", "fixation_duration", "weight"),
}
MAX_POINTS = 1_000_000


def parse(text: str) -> np.ndarray:
    """A table with commas, semicolons, tabs or blanks -> (N, 3) float64: x, y, duration (1 where there is none).

    The first line may name its columns, in any order; without names they are x, y and perhaps duration. Lines without
    two numbers (missing samples) are left out. Raises LimelightError.
    """
    lines = [line.strip() for line in text.lstrip("\ufeff").splitlines() if line.strip() and line.strip()[0] != "#"]
    if not lines:
        raise LimelightError("fixations: found no line; expected a table with x, y and perhaps a duration, as CSV.")
    mark = next((mark for mark in (";", "\t", ",") if mark in lines[0]), None)
    cells = (
        [line.split() for line in lines]
        if mark is None
        else list(csv.reader(io.StringIO("\n".join(lines)), delimiter=mark))
    )
    columns = {"x": 0, "y": 1, "duration": 2}
    if any(_number(cell) is None for cell in cells[0][:2]):
        names = [cell.strip().strip('"').lower() for cell in cells[0]]
        columns = {key: next((names.index(n) for n in known if n in names), -1) for key, known in NAMES.items()}
        if columns["x"] < 0 or columns["y"] < 0:
            raise LimelightError(
                f"fixations: found the columns {', '.join(names)[:80]}; expected one named x and one named y."
            )
        cells = cells[1:]
    if len(cells) > MAX_POINTS:
        raise LimelightError(f"fixations: found {len(cells)} lines; expected at most {MAX_POINTS}.")
    points = []
    for row in cells:
        x, y, duration = (_number(row[i]) if 0 <= i < len(row) else None for i in columns.values())
        if x is not None and y is not None:
            points.append((x, y, 1.0 if duration is None else max(duration, 0.0)))
    if not points:
        raise LimelightError("fixations: found no line with two numbers; expected x and y in each.")
    return np.array(points)


def density(points: np.ndarray, height: int, width: int, sigma: float) -> np.ndarray:
    """(N, 3) x and y in shares of the picture, and weight -> (height, width), peak 1.

    Weights are summed by pixel and smoothed by a Gaussian of `sigma` pixels. Points beyond the picture do not count;
    LimelightError if none is left.
    """
    inside = points[((points[:, :2] >= 0) & (points[:, :2] < 1)).all(1) & (points[:, 2] > 0)]
    if not len(inside):
        raise LimelightError(
            f"fixations: none of the {len(points)} points lies in the picture. Check the unit and the size that they "
            "are relative to."
        )
    counts = np.zeros((height, width), np.float32)
    rows, columns = (inside[:, 1] * height).astype(int), (inside[:, 0] * width).astype(int)
    np.add.at(counts, (rows, columns), inside[:, 2] / inside[:, 2].max())
    return peak(blur(counts, sigma))


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
