"""Where a cut-out product lies on the canvas, as an affine map, so that its own pixels can come back at the end.

Coordinates are pixels, x to the right and y down; pixel (i, j) covers x in [j, j+1] and y in [i, i+1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .. import checks
from ..errors import LimelightError
from ..regions.raster import opencv

GREY = 0.5  # of the canvas: what inpainting models know as "nothing known here"
VISIBLE = 0.5 / 255  # opacity below half a level of an 8-bit mask is none, and above 1 less that it is full
INSIDE, WIDTH, HEIGHT, PIXELS = "inside", "width", "height", "original pixels"
FITS = (INSIDE, WIDTH, HEIGHT, PIXELS)
FLOOR, CENTRE, HANG = "floor", "centre", "hang"
ANCHORS = (FLOOR, CENTRE, HANG)
MAX_SIDE = 16384


@dataclass(frozen=True)
class Placement:
    """One product's place. source, canvas: (width, height) in pixels. matrix (a, b, c, d, e, f): the point (x, y) of
    the source lies at (a x + b y + c, d x + e y + f) on the canvas."""

    source: tuple[int, int]
    canvas: tuple[int, int]
    matrix: tuple[float, float, float, float, float, float]

    @property
    def scale(self) -> float:
        """Canvas pixels for one of the source."""
        a, b, _, d, e, _ = self.matrix
        return math.sqrt(abs(a * e - b * d))

    @property
    def exact(self) -> bool:
        """Whether pixels are copied as they are: whole steps to the side, neither scaled nor turned."""
        a, b, c, d, e, f = self.matrix
        return (a, b, d, e) == (1, 0, 0, 1) and c == int(c) and f == int(f)

    def on(self, width: int, height: int) -> Placement:
        """The same place in a picture of another size that shows the whole canvas."""
        if (width, height) == self.canvas:
            return self
        across, along = width / self.canvas[0], height / self.canvas[1]
        a, b, c, d, e, f = self.matrix
        return Placement(
            self.source, (width, height), (a * across, b * across, c * across, d * along, e * along, f * along)
        )

    def of(self, width: int, height: int) -> Placement:
        """The same place of the same product from a source of another size."""
        if (width, height) == self.source:
            return self
        across, along = self.source[0] / width, self.source[1] / height
        a, b, c, d, e, f = self.matrix
        return Placement((width, height), self.canvas, (a * across, b * along, c, d * across, e * along, f))

    def original(self) -> Placement:
        """The same place on a canvas so large or small that the product has its own pixels; `exact` unless turned.

        The canvas' sides and the offset are rounded to whole pixels, so the product moves by half a pixel at most.
        """
        scale = self.scale
        width, height = (max(1, round(side / scale)) for side in self.canvas)
        canvas = width, height
        if max(canvas) > MAX_SIDE:
            raise LimelightError(
                f"resolution: at the subject's own pixels the picture would have {canvas[0]} x {canvas[1]}; at most "
                f"{MAX_SIDE} on a side are possible. Place the subject larger, or keep the picture's resolution."
            )
        a, b, c, d, e, f = (value / scale for value in self.matrix)
        if not b and not d and a > 0 and e > 0:
            return Placement(self.source, canvas, (1.0, 0.0, float(round(c)), 0.0, 1.0, float(round(f))))
        return Placement(self.source, canvas, (a, b, c, d, e, f))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Placement:
        """The reverse of `as_dict`, checked."""
        value = checks.mapping(value, "placement", ("source", "canvas", "matrix"))

        def size(key: str) -> tuple[int, int]:
            width, height = (checks.whole(side, f"placement.{key}", 1, MAX_SIDE) for side in _items(value, key, 2))
            return width, height

        source, canvas = size("source"), size("canvas")
        numbers = (checks.number(part, "placement.matrix", -1e6, 1e6) for part in _items(value, "matrix", 6))
        a, b, c, d, e, f = numbers
        if a * e == b * d:
            raise LimelightError("placement.matrix: found one that makes everything flat; expected a, b, c, d, e, f.")
        return cls(source, canvas, (a, b, c, d, e, f))


def place(
    alpha: np.ndarray,
    canvas: tuple[int, int],
    fit: str = INSIDE,
    anchor: str = FLOOR,
    size: float = 70.0,
    rotation: float = 0.0,
    margin: float = 5.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Placement:
    """A product of opacity alpha (H, W) on a canvas (width, height).

    What is placed is the box around all that is visible, after turning by rotation (degrees, clockwise). margin, in
    percent of the canvas' short side, is kept free on all sides; what it leaves is the frame. fit: "inside" scales the
    box to size percent of the largest that fits into the frame; "width" and "height" to size percent of the frame's;
    "original pixels" to size percent of its own pixels, and at 100 without a turn nothing is resampled. anchor: "floor"
    stands it on the frame's lower edge, "hang" hangs it from the upper one. shift: to the right and down, in percent of
    the canvas.
    """
    xs, ys = _turned(_outline(alpha), rotation)
    left, right, top, bottom = xs.min(), xs.max(), ys.min(), ys.max()
    width, height = canvas
    free = margin / 100 * min(canvas)
    across, along = (width - 2 * free) / (right - left), (height - 2 * free) / (bottom - top)
    scale = {INSIDE: min(across, along), WIDTH: across, HEIGHT: along, PIXELS: 1.0}[fit] * size / 100
    x = width / 2 - scale * (left + right) / 2 + shift[0] / 100 * width
    y = {
        FLOOR: height - free - scale * bottom,
        CENTRE: height / 2 - scale * (top + bottom) / 2,
        HANG: free - scale * top,
    }[anchor] + shift[1] / 100 * height
    cos, sin = _direction(rotation)
    if scale == 1 and sin == 0 and cos == 1:
        x, y = round(x), round(y)
    if min(x + scale * right, y + scale * bottom) <= 0 or x + scale * left >= width or y + scale * top >= height:
        raise LimelightError(
            f"shift: {shift[0]:g}, {shift[1]:g} percent moves the whole subject out of the canvas. Use smaller values."
        )
    matrix = (scale * cos, -scale * sin, float(x), scale * sin, scale * cos, float(y))
    return Placement((alpha.shape[1], alpha.shape[0]), canvas, matrix)


def alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two (width, height) have one aspect ratio, to the percent that sides in steps of 8 pixels need."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= 0.01 * size[0] * other[1]


def visible_share(alpha: np.ndarray, placement: Placement) -> float:
    """How much of the product's area lies on the canvas, 0 to 1, by the points of its outline's rows."""
    rows, columns = np.nonzero(alpha > VISIBLE)
    a, b, c, d, e, f = placement.matrix
    x, y = a * (columns + 0.5) + b * (rows + 0.5) + c, d * (columns + 0.5) + e * (rows + 0.5) + f
    return float(((x >= 0) & (x <= placement.canvas[0]) & (y >= 0) & (y <= placement.canvas[1])).mean())


def opacity(mask: np.ndarray) -> np.ndarray:
    """(...) in [0, 1] -> the same, with values within half an 8-bit level of 0 or 1 made so: 0.9999 is meant as 1."""
    return np.where(mask >= 1 - VISIBLE, np.float32(1), np.where(mask <= VISIBLE, np.float32(0), mask))


def laid(colour: np.ndarray, alpha: np.ndarray, placement: Placement) -> tuple[np.ndarray, np.ndarray]:
    """Colour (H, W, 3) and opacity (H, W) of the product -> the same on the canvas; colour is 0 where nothing is.

    An `exact` placement copies the values. Any other averages where it makes smaller and interpolates (cubic) where
    not; colours are weighted by their opacity, so that nothing of what is cut away comes back.
    """
    if placement.exact:
        return _moved(colour, placement), _moved(alpha, placement)
    cv2 = opencv()
    layer = np.dstack([colour * alpha[..., None], alpha]).astype(np.float32)
    a, b, c, d, e, f = placement.matrix
    scale = placement.scale
    if scale < 1:
        height, width = layer.shape[:2]
        small = max(1, round(width * scale)), max(1, round(height * scale))
        layer = cv2.resize(layer, small, interpolation=cv2.INTER_AREA)
        a, d, b, e = a * width / small[0], d * width / small[0], b * height / small[1], e * height / small[1]
    # OpenCV counts from the middle of the first pixel
    matrix = np.array([[a, b, (a + b - 1) / 2 + c], [d, e, (d + e - 1) / 2 + f]])
    layer = cv2.warpAffine(layer, matrix, placement.canvas, flags=cv2.INTER_CUBIC, borderValue=(0, 0, 0, 0))
    alpha = opacity(layer[..., 3].clip(0, 1))
    colour = layer[..., :3] / np.maximum(layer[..., 3:], VISIBLE)
    return colour.clip(0, 1) * (alpha > 0)[..., None], alpha


def on_grey(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The product on an even grey: (H, W, 3). Where it is opaque its pixels are unchanged."""
    return colour * alpha[..., None] + np.float32(GREY) * (1 - alpha[..., None])


def sides(width: int, height: int, ratio: tuple[int, int] | None = None, step: int = 8) -> tuple[int, int]:
    """Canvas (width, height): multiples of step; with a ratio, of about as many pixels as width x height."""
    wide, high = float(width), float(height)
    if ratio is not None:
        wide, high = (math.sqrt(width * height * a / b) for a, b in (ratio, ratio[::-1]))
    return max(step, step * round(wide / step)), max(step, step * round(high / step))


def _items(value: Mapping[str, Any], key: str, count: int) -> Any:
    return checks.listed(value.get(key), f"placement.{key}", count, count, "numbers")


def _outline(alpha: np.ndarray) -> np.ndarray:
    """(2, N) corners (x, y) of the first and last visible pixel of each row: their hull is that of all of them."""
    seen = alpha > VISIBLE
    rows = np.flatnonzero(seen.any(1))
    first, last = seen[rows].argmax(1), seen.shape[1] - seen[rows, ::-1].argmax(1)
    return np.array([np.r_[first, last, first, last], np.r_[rows, rows, rows + 1, rows + 1]], float)


def _direction(rotation: float) -> tuple[float, float]:
    """Cosine and sine, exact at quarter turns."""
    angle = math.radians(rotation % 360)
    cos, sin = math.cos(angle), math.sin(angle)
    return (round(cos), round(sin)) if rotation % 90 == 0 else (cos, sin)


def _turned(points: np.ndarray, rotation: float) -> np.ndarray:
    cos, sin = _direction(rotation)
    return np.array([[cos, -sin], [sin, cos]]) @ points


def _moved(values: np.ndarray, placement: Placement) -> np.ndarray:
    """Pixels copied to their place; 0 elsewhere."""
    x, y = int(placement.matrix[2]), int(placement.matrix[5])
    width, height = placement.canvas
    canvas = np.zeros((height, width, *values.shape[2:]), values.dtype)
    y0, y1 = max(y, 0), min(y + values.shape[0], height)
    x0, x1 = max(x, 0), min(x + values.shape[1], width)
    if y1 > y0 and x1 > x0:
        canvas[y0:y1, x0:x1] = values[y0 - y : y1 - y, x0 - x : x1 - x]
    return canvas
