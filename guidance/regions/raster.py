"""Shapes to pixels: exact coverage and distance on any grid (h, w), without loops over pixels.

A shape is drawn on a grid that is ``n`` times finer in both directions (the finer short side has at least 1024 cells)
and averaged down, so that a thin stroke keeps its true area even on an 8x8 attention map. Cell (i, j) covers
x in [j/w, (j+1)/w] and y in [i/h, (i+1)/h]. Lengths (stroke width, distance) are in units of the short side, which is
taken from the grid: an (h, w) grid stands for an image of aspect w/h.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from ..errors import LimelightError
from . import maskpng
from .document import Box, Instance, Polygon, Raster, Shape, Stroke

_FINE_SIDE = 1024  # cells of the fine grid's short side, at least
_FINE_AREA = 2**23  # cells of the fine grid, at most (where the grid itself has fewer)


def opencv() -> ModuleType:
    """OpenCV, imported when first needed. A machine without it gets an error that names the remedy."""
    try:
        import cv2
    except Exception as error:  # a broken install raises ImportError, OSError (libGL) or AttributeError (numpy)
        raise LimelightError(
            f"Limelight needs OpenCV to draw regions, and importing it failed ({error}). Install it into ComfyUI's "
            "Python with `pip install opencv-python`, or `pip install opencv-python-headless` on a machine without "
            "a display (missing libGL)."
        ) from error
    return cv2


def coverage(shapes: Sequence[Shape], height: int, width: int) -> np.ndarray:
    """The share of each cell that the union of ``shapes`` covers: (h, w) float32 in [0, 1]."""
    n = _fineness(height, width)
    return _shrink(_union(shapes, height * n, width * n), n)


def coverage_and_distance(
    instances: Sequence[Instance], height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Coverage of each instance on the grid, and the distance to the instances on the fine grid.

    -> coverage (I, h, w) float32; nearest (I, h*n, w*n) float32: distance from the edge of each instance in units of
    the short side, 0 inside; half width (I,): of the widest stroke of each instance, 0 if it has none; n. A soft mask
    begins where it reaches half of its peak.
    """
    n = _fineness(height, width)
    short = min(height, width) * n
    covers, distances, halves = [], [], []
    for instance in instances:
        fine = _union(instance.shapes, height * n, width * n)
        covers.append(_shrink(fine, n))
        distances.append(distance(fine >= 0.5 * fine.max()) / short)
        halves.append(max((shape.width / 2 for shape in instance.shapes if isinstance(shape, Stroke)), default=0.0))
    return np.stack(covers), np.stack(distances), np.array(halves, np.float32), n


def distance(inside: np.ndarray) -> np.ndarray:
    """(h, w) bool -> (h, w) float32: distance in cells from each cell to the edge of the region, 0 in it."""
    cv2 = opencv()
    outside = np.ascontiguousarray(~inside, dtype=np.uint8)
    centres = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.maximum(centres - 0.5, 0)  # from cell centre to cell centre; the edge is half a cell nearer


def resample(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area average of an (H, W) array on another grid (h, w), larger or smaller: each source cell is a flat square."""
    image = np.asarray(image, np.float32)
    if image.shape == (height, width):
        return image
    return np.clip(_overlap(image.shape[0], height) @ image @ _overlap(image.shape[1], width).T, 0, 1)


def _fineness(height: int, width: int) -> int:
    n = -(-_FINE_SIDE // min(height, width))
    return max(1, min(n, int((_FINE_AREA / (height * width)) ** 0.5)))


def _shrink(fine: np.ndarray, n: int) -> np.ndarray:
    height, width = fine.shape[0] // n, fine.shape[1] // n
    return fine.reshape(height, n, width, n).mean((1, 3), dtype=np.float32)


def _union(shapes: Sequence[Shape], height: int, width: int) -> np.ndarray:
    fine = functools.reduce(np.maximum, (_draw(shape, height, width) for shape in shapes))
    if not fine.any():
        raise LimelightError(
            f"highlights: nothing of a region is left on a grid of {width}x{height}; it only touches the canvas. "
            "Move it inside or make it larger."
        )
    return fine


def _draw(shape: Shape, height: int, width: int) -> np.ndarray:
    if isinstance(shape, Stroke):
        return _draw_stroke(shape, height, width)
    if isinstance(shape, Polygon):
        return _draw_polygon(shape, height, width)
    if isinstance(shape, Box):
        x0, y0, x1, y1 = shape.box
        return np.outer(_covered(y0, y1, height), _covered(x0, x1, width))
    assert isinstance(shape, Raster)
    return resample(maskpng.decode(shape.png), height, width)


def _covered(start: float, end: float, count: int) -> np.ndarray:
    """The share of each of ``count`` equal parts of [0, 1] that [start, end] covers: (count,) float32."""
    edges = np.arange(count + 1) / count
    return (np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None) * count).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _overlap(source: int, target: int) -> np.ndarray:
    """(target, source) float32: the share of each target cell that each source cell makes up; rows sum to 1."""
    wanted, given = np.arange(target + 1) / target, np.arange(source + 1) / source
    shared = np.minimum(wanted[1:, None], given[None, 1:]) - np.maximum(wanted[:-1, None], given[None, :-1])
    return (np.clip(shared, 0, None) * target).astype(np.float32)


def _draw_stroke(stroke: Stroke, height: int, width: int) -> np.ndarray:
    """Distance from the centre line, thresholded with a soft edge of one cell: round caps and joins come by themselves.

    Only the stroke's surroundings are drawn. They reach beyond the canvas by the half width, so that a centre line just
    outside still paints what reaches in.
    """
    half = stroke.width / 2 * min(height, width)
    points = np.array(stroke.points + stroke.points[-1:]) * (width, height)
    # the last cell also owns the right or bottom border, so that a hair line along it is not lost
    cells = np.minimum(np.floor(points), np.where(points <= (width, height), (width - 1, height - 1), np.inf))
    margin = int(half) + 2
    left, top = np.clip(cells.min(0) - margin, -margin, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(cells.max(0) + margin + 1, (left + 1, top + 1), (width + margin, height + margin))
    away = _line_distance(
        points - (left, top), cells.astype(np.int32) - (left, top), int(bottom - top), int(right - left), half
    )
    drawn = np.zeros((height, width), np.float32)
    x0, y0 = max(left, 0), max(top, 0)
    seen = away[y0 - top : height - top, x0 - left : width - left]
    drawn[y0 : y0 + seen.shape[0], x0 : x0 + seen.shape[1]] = np.clip(half + 0.5 - seen, 0, min(1, 2 * half))
    return drawn


def _line_distance(points: np.ndarray, cells: np.ndarray, height: int, width: int, near: float) -> np.ndarray:
    """(h, w) float32: distance in cells from each cell's centre to the polyline (K, 2); ``cells``: those of its points.

    A distance transform gives it to a cell or so. Around the distance ``near``, where a stroke ends, it is then taken
    from the segments themselves: a thin stroke would otherwise be too wide by a quarter of a cell on each side.
    """
    cv2 = opencv()
    owner = np.zeros((height, width), np.int32)
    for number, (start, end) in enumerate(zip(cells[:-1].tolist(), cells[1:].tolist(), strict=True), 1):
        cv2.line(owner, start, end, number)
    line = owner > 0
    free = np.where(line, 0, 1).astype(np.uint8)
    away = cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if not line.any():
        return away
    _, label = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    owners = np.zeros(label.max() + 1, np.int32)
    owners[label[line]] = owner[line]
    rows, columns = np.nonzero(np.abs(away - near) < 2)
    centres = np.stack([columns, rows], 1) + 0.5
    nearest = owners[label[rows, columns]] - 1
    last = len(points) - 2
    beside = (_segment_distance(centres, points, np.clip(nearest + k, 0, last)) for k in (-1, 0, 1))
    away[rows, columns] = functools.reduce(np.minimum, beside)
    return away


def _segment_distance(centres: np.ndarray, points: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Distance of each of the (N, 2) centres to the segment from ``points[index]`` to the next point: (N,)."""
    start, step = points[index], points[index + 1] - points[index]
    offset = centres - start
    along = (offset * step).sum(1) / np.maximum((step * step).sum(1), 1e-12)
    return np.hypot(*(offset - np.clip(along, 0, 1)[:, None] * step).T)


def _draw_polygon(polygon: Polygon, height: int, width: int) -> np.ndarray:
    """OpenCV's fill includes the boundary's cells; counting those by half removes the bias."""
    cv2 = opencv()
    cells = np.floor(np.array(polygon.points) * (width, height)).astype(np.int32)
    filled, boundary = np.zeros((2, height, width), np.uint8)
    cv2.fillPoly(filled, [cells], 1)
    cv2.polylines(boundary, [cells], True, 1)
    return np.where(boundary, 0.5, filled).astype(np.float32)
