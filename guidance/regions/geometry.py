"""Plane geometry of the region document: does a shape meet the canvas (the unit square)? Plain Python, exact enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]

_INSET = 2e-3  # a polygon that reaches in by less leaves nothing to draw
_FLAT = 1e-4


def polyline_enters_canvas(points: Points) -> bool:
    """True when the line through the points (or the single point) meets the unit square, border included."""
    return any(_segment_enters(a, b, 0.0) for a, b in zip(points, points[1:] or points, strict=False))


def polygon_enters_canvas(points: Points) -> bool:
    """True when the filled polygon (even-odd) covers a part of the unit square.

    If no edge enters the square, the square lies wholly inside or wholly outside, so that its centre decides.
    """
    edges = list(zip(points, (*points[1:], points[0]), strict=True))
    if any(_segment_enters(a, b, _INSET) for a, b in edges):
        return True
    crossings = 0
    for (ax, ay), (bx, by) in edges:
        if (ay > 0.5) != (by > 0.5):
            crossings += ax + (0.5 - ay) / (by - ay) * (bx - ax) > 0.5
    return crossings % 2 == 1


def collinear(points: Points) -> bool:
    """True when all points lie within `_FLAT` of one line, so that they enclose nothing that could be drawn."""
    ax, ay = points[0]
    bx, by = max(points, key=lambda point: (point[0] - ax) ** 2 + (point[1] - ay) ** 2)
    length = ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5
    return all(abs((bx - ax) * (y - ay) - (by - ay) * (x - ax)) <= _FLAT * length for x, y in points)


def angle_between(first: float, second: float) -> float:
    """Difference of two undirected axes (radians, any branch) in degrees, 0..90."""
    return abs(math.degrees((first - second + math.pi / 2) % math.pi - math.pi / 2))


def _segment_enters(a: tuple[float, float], b: tuple[float, float], inset: float) -> bool:
    """Liang-Barsky clipping of the segment to the square, which is drawn in by ``inset`` on every side."""
    start, end = 0.0, 1.0
    for p, q in zip(a, b, strict=True):
        step = q - p
        low, high = inset - p, 1 - inset - p
        if step == 0:
            if low > 0 or high < 0:
                return False
            continue
        near, far = sorted((low / step, high / step))
        start, end = max(start, near), min(end, far)
        if start > end:
            return False
    return True
