"""One letterbox for everything that belongs to a picture: its strokes, its masks, its label map.

The picture is scaled to fit the target, keeps its aspect ratio, and lies in the middle; the bars beside it belong to
nothing. Strokes and label maps that go through the same `Letterbox` stay aligned to the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from . import maskpng
from .document import MIN_EXTENT, Box, Document, Highlight, Instance, Polygon, Raster, Shape, Stroke
from .raster import resample

_GRID = 1024  # a letterboxed mask has at most so many cells a side: attention is never read on a finer grid


@dataclass(frozen=True)
class Letterbox:
    """``source`` and ``target``: (width, height), of the picture and of the frame it is fitted into."""

    source: tuple[int, int]
    target: tuple[int, int]

    @property
    def scale(self) -> float:
        """Target pixels for one source pixel."""
        return min(self.target[0] / self.source[0], self.target[1] / self.source[1])

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """Where the picture lies in the target: left, top, width, height in fractions of the target."""
        wide, high = (self.scale * s / t for s, t in zip(self.source, self.target, strict=True))
        return (1 - wide) / 2, (1 - high) / 2, wide, high

    def labels(self, array: np.ndarray, fill: int | float, grid: tuple[int, int] | None = None) -> np.ndarray:
        """Values of the picture in the target, nearest neighbour: (h, w) -> (H, W), ``fill`` in the bars.

        array: covers the whole picture, at any resolution. grid: (H, W), by default the target's own size.
        """
        left, top, wide, high = self.frame
        height, width = grid or (self.target[1], self.target[0])
        rows, columns = array.shape
        y, inside_y = _cells(height, top, high, rows)
        x, inside_x = _cells(width, left, wide, columns)
        return np.where(inside_y[:, None] & inside_x, array[y[:, None], x], np.asarray(fill, array.dtype))

    def inside(self) -> np.ndarray:
        """(H, W) bool: which pixels of the target the picture covers."""
        return self.labels(np.ones((1, 1), bool), False)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Fractions of the picture -> fractions of the target."""
        left, top, wide, high = self.frame
        return left + x * wide, top + y * high

    def shape(self, shape: Shape) -> Shape:
        """A shape of the picture -> the same shape in the target."""
        if isinstance(shape, Stroke):
            width = shape.width * self.scale * min(self.source) / min(self.target)
            points = tuple(self.point(x, y) for x, y in shape.points)
            return Stroke(points, max(width, MIN_EXTENT))
        if isinstance(shape, Box):
            x0, y0, x1, y1 = shape.box
            return Box((*self.point(x0, y0), *self.point(x1, y1)))
        if isinstance(shape, Polygon):
            return Polygon(tuple(self.point(x, y) for x, y in shape.points))
        assert isinstance(shape, Raster)
        width, height = self.target
        less = min(1.0, _GRID / max(width, height))
        grid = max(1, round(height * less)), max(1, round(width * less))
        mask = maskpng.decode(shape.png)
        # averaged to the resolution it will have, so that a thin line does not fall between the cells
        _, _, wide, high = self.frame
        rows, columns = max(1, round(high * grid[0])), max(1, round(wide * grid[1]))
        mask = resample(mask, min(rows, mask.shape[0]), min(columns, mask.shape[1]))
        return Raster(maskpng.encode(self.labels(mask, 0, grid)))

    def highlight(self, highlight: Highlight) -> Highlight:
        """A highlight of the picture -> the same highlight in the target."""
        instances = (Instance(tuple(self.shape(shape) for shape in one.shapes)) for one in highlight.instances)
        return replace(highlight, instances=tuple(instances))

    def document(self, document: Document) -> Document:
        """A document of the picture -> the same document in the target. Without a change of aspect, itself."""
        if self.source[0] * self.target[1] == self.source[1] * self.target[0]:
            return document
        return Document(tuple(self.highlight(highlight) for highlight in document.highlights))


def _cells(count: int, start: float, extent: float, source: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``count`` cells of an axis: which of ``source`` cells its centre falls on, and whether it does."""
    along = ((np.arange(count) + 0.5) / count - start) / extent
    return np.clip((along * source).astype(int), 0, source - 1), (along >= 0) & (along < 1)
