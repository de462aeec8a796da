"""Coloured scribble images -> objects: each colour a phrase, each connected part of it an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..checks import show, whole
from ..errors import LimelightError
from . import maskpng, voc
from .document import MAX_INSTANCES, MIN_EXTENT, Instance, Raster, Stroke
from .raster import opencv, resample
from .scribbles import Scribbles
from .skeleton import lines

Color = tuple[int, int, int]

TOLERANCE = 8  # of each channel, 0..255: more would take smoothed edges between two colours for a third one
MAX_COLORS = 64
_MASK_SIDE = 1024  # a larger image is reduced to this grid for masks: attention is never read on a finer one
_LINE_SIDE = 256  # and to this one for lines, whose middle is not known any better
_SPECK = 1e-4  # of the image: smaller connected parts are noise


def parse_colors(text: Any) -> dict[Color, str]:
    """ "#e6194b = dog", one a line -> name by (red, green, blue). Several colours may have the same name.

    An empty text means VOC's colours and class names. Raises `LimelightError` with the line of the mistake.
    """
    if not isinstance(text, str):
        raise LimelightError(f"colors: found {show(text)}; expected lines such as '#e6194b = dog'.")
    colors: dict[Color, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        code, equals, name = (part.strip() for part in line.partition("="))
        digits = code.removeprefix("#")
        if not equals or not name or len(digits) != 6 or not set(digits.lower()) <= set("0123456789abcdef"):
            raise LimelightError(f"colors: line {number} is {show(line)}; expected a line such as '#e6194b = dog'.")
        color = int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
        if color in colors:
            raise LimelightError(f"colors: line {number} names {code} again; expected each colour once.")
        colors[color] = name
    if len(colors) > MAX_COLORS:
        raise LimelightError(f"colors: found {len(colors)}; expected at most {MAX_COLORS}.")
    return colors


def read_image(
    image: np.ndarray, colors: Mapping[Color, str] | None = None, tolerance: int = TOLERANCE, whole_areas: bool = False
) -> Scribbles:
    """uint8 (h, w, 3) -> what is drawn on it. Raises `LimelightError` if a colour or everything is missing.

    colors: name by colour; none: VOC's, of which any may be missing. Pixels whose every channel is within
    ``tolerance`` of a colour have its name, others are ignored, and so is what is named "background". whole_areas:
    whether the coloured areas are the objects themselves (masks) or lines through them (strokes along their skeletons).
    """
    tolerance = whole(tolerance, "tolerance", 0, 255)
    known = dict(colors or {voc.color(index): name for index, name in enumerate(voc.CLASSES)})
    named = _nearest(image, list(known), tolerance)
    objects: dict[str, list[Instance]] = {}
    codes: dict[str, str] = {}
    for index, (color, name) in enumerate(known.items()):
        if name == voc.BACKGROUND:
            continue
        parts = _parts(named == index, _MASK_SIDE if whole_areas else _LINE_SIDE)
        found = [_area(part) if whole_areas else _line(part) for part in parts]
        if colors and not found:
            raise LimelightError(
                f"colors: nothing of {_code(color)} ({name}) is in the image; found {_common(image)}. Correct the "
                "colour, take the line out, or raise the tolerance."
            )
        if found:
            objects.setdefault(name, []).extend(found)
            codes.setdefault(name, _code(color))
    if not objects:
        raise LimelightError(
            f"image: found none of PASCAL VOC's colours, but {_common(image)}. Name the colours of this image."
        )
    height, width = image.shape[:2]
    return Scribbles((width, height), {name: tuple(instances) for name, instances in objects.items()}, codes)


def _nearest(image: np.ndarray, colors: list[Color], tolerance: int) -> np.ndarray:
    """(h, w, 3) -> (h, w): index of the nearest colour, -1 where none is within the tolerance."""
    best = np.full(image.shape[:2], tolerance + 1, np.int16)
    index = np.full(image.shape[:2], -1, np.int16)
    for i, color in enumerate(colors):
        away = np.abs(image.astype(np.int16) - np.array(color, np.int16)).max(-1)
        closer = away < best
        best[closer], index[closer] = away[closer], i
    return index


def _parts(mask: np.ndarray, side: int) -> list[np.ndarray]:
    """The connected parts (8 neighbours) of a bool (h, w): the share of each cell that each covers, on a grid of at
    most ``side`` a side. Specks are dropped."""
    cv2 = opencv()
    less = min(1.0, side / max(mask.shape))
    grid = tuple(max(1, round(cells * less)) for cells in mask.shape)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= max(3, _SPECK * mask.size)]
    if len(large) > MAX_INSTANCES:
        raise LimelightError(
            f"image: found {len(large)} separate areas of one colour; expected at most {MAX_INSTANCES}, one an object. "
            "Draw with one plain colour a phrase, without smoothing or JPEG compression, or lower the tolerance."
        )
    return [resample(labels == k, *grid) for k in large]


def _area(cover: np.ndarray) -> Instance:
    return Instance((Raster(maskpng.encode(cover)),))


def _line(cover: np.ndarray) -> Instance:
    height, width = cover.shape
    paths, thickness = lines(cover > 0)
    wide = min(max(thickness / min(height, width), MIN_EXTENT), 1.0)
    return Instance(tuple(Stroke(tuple((x / width, y / height) for x, y in path), wide) for path in paths))


def _code(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _common(image: np.ndarray) -> str:
    """The most frequent colours, for an error."""
    colors, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    most = colors[np.argsort(-counts)[:6]].tolist()
    return ", ".join(_code((red, green, blue)) for red, green, blue in most)
