"""Scene reader: find the coloured shapes in an image, which objects are where, and how many named ones are present.

Made for generated images, whose colours are off, whose edges are soft and whose backgrounds are noisy: pixels are told
apart by chroma and hue (the backgrounds have none), shapes by their moments: of a circle and a square with the blob's
moments the one that overlaps it more. Ragged edges and single stray pixels hardly change those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .scenes import COLOURS

MIN_AREA = 0.008  # share of the image below which a blob is noise; the smallest drawn object covers 0.04
MIN_CONFIDENCE = 0.75  # a blob that fits its shape less well than this is no circle, square or bar
BAR_ASPECT = 1.7  # length over thickness; drawn bars have 2.7 and more

_CHROMA = 0.42  # of the palette colour's chroma; 0.5 is the middle of an edge, generated colours are duller
_FRINGE = 0.016  # radius of the opening, as share of the side: drops mixed pixels where two objects meet
_BRIDGE = 0.045  # radius of the opening that parts two touching objects of one colour


@dataclass(frozen=True, eq=False)  # arrays do not compare to one bool
class Found:
    """One object as read. ``mask``: bool (h, w). ``centroid``: (x, y), fractions of width and height.

    ``area``: share of the image. ``orientation``: of the long axis in radians in [0, pi), from +x towards +y, bars
    only. ``confidence``: intersection over union with the ideal shape of the same moments, 0..1.
    """

    colour: str
    shape: str
    mask: np.ndarray
    centroid: tuple[float, float]
    area: float
    orientation: float | None
    confidence: float

    @property
    def phrase(self) -> str:
        return f"{self.colour} {self.shape}"


def read(image: np.ndarray) -> list[Found]:
    """uint8 RGB (h, w, 3) -> the objects found, largest first."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"read() takes a uint8 RGB image (h, w, 3), got {image.dtype} {image.shape}")
    labels, side = _classify(image), min(image.shape[:2])
    found = []
    for number, colour in enumerate(COLOURS):
        mask = _open((labels == number).astype(np.uint8), _FRINGE * side)
        for blob in _components(mask):
            whole = _measure(colour, blob)
            parts = [_measure(colour, part) for part in _part(blob, _BRIDGE * side)]
            # two touching objects of one colour fit no shape together, but each its own
            split = len(parts) > 1 and min(part.confidence for part in parts) > max(MIN_CONFIDENCE, whole.confidence)
            found += parts if split else [whole]
    return sorted(found, key=lambda thing: -thing.area)


def presence(found: list[Found], phrases: list[str]) -> float:
    """Share of the named objects ("red circle") that are there with the right colour and shape.

    Every found object answers for one phrase only: two red circles asked for need two.
    """
    left = [thing.phrase for thing in found if thing.confidence >= MIN_CONFIDENCE]
    present = 0
    for phrase in phrases:
        if phrase in left:
            left.remove(phrase)
            present += 1
    return present / len(phrases)


def object_of(found: list[Found], phrase: str) -> Found | None:
    """The object that stands for a phrase: the largest of that colour and shape, None where there is none."""
    named = [thing for thing in found if thing.phrase == phrase and thing.confidence >= MIN_CONFIDENCE]
    return max(named, key=lambda thing: thing.area, default=None)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) -> float32 CIE Lab."""
    return cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _classify(image: np.ndarray) -> np.ndarray:
    """-> int (h, w): index into COLOURS, -1 for background."""
    smooth = cv2.GaussianBlur(cv2.medianBlur(image, 3), (3, 3), 0)
    chroma = _lab(smooth)[..., 1:]
    palette = _lab(np.array([list(COLOURS.values())], np.uint8))[0, :, 1:]
    strength = np.linalg.norm(palette, axis=1)
    # along[k]: how much of palette colour k's chroma a pixel has; across decides between the hues
    along = chroma @ (palette / strength[:, None]).T
    nearest = along.argmax(-1)
    coloured = np.take_along_axis(along / strength, nearest[..., None], -1)[..., 0] > _CHROMA
    return np.where(coloured, nearest, -1)


def _open(mask: np.ndarray, radius: float) -> np.ndarray:
    """Morphological opening of a uint8 0/1 mask; the border counts as the object's continuation."""
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(radius))


def _disc(radius: float) -> np.ndarray:
    size = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """-> one uint8 mask per connected component of at least MIN_AREA."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= MIN_AREA * mask.size]
    return [(labels == k).astype(np.uint8) for k in large]


def _part(blob: np.ndarray, radius: float) -> list[np.ndarray]:
    """Part a blob at its narrow bridges. The opening rounds corners off, so the parts grow back into the blob."""
    return [cv2.dilate(part, _disc(radius / 2)) & blob for part in _components(_open(blob, radius))]


def _measure(colour: str, blob: np.ndarray) -> Found:
    height, width = blob.shape
    moments = cv2.moments(blob, binaryImage=True)
    area = moments["m00"]
    x, y = moments["m10"] / area, moments["m01"] / area
    xx, yy, xy = (moments[key] / area for key in ("mu20", "mu02", "mu11"))
    spread = math.hypot((xx - yy) / 2, xy)
    # a uniform rectangle of sides a >= b has the principal variances a^2 / 12 and b^2 / 12
    long, short = (math.sqrt(max(1.0, 12 * ((xx + yy) / 2 + sign * spread))) for sign in (1, -1))
    angle = 0.5 * math.atan2(2 * xy, xx - yy) % math.pi

    if long / short >= BAR_ASPECT:
        shape, ideal = "bar", _rectangle(blob, x, y, long, short, angle)
        confidence = _overlap(blob, ideal)
    else:
        ideals = {
            "circle": _circle(blob, x, y, math.sqrt(area / math.pi)),
            "square": _rectangle(blob, x, y, math.sqrt(area), math.sqrt(area), _square_angle(blob, x, y)),
        }
        overlaps = {name: _overlap(blob, ideal) for name, ideal in ideals.items()}
        shape, confidence = max(overlaps.items(), key=lambda item: item[1])
    return Found(
        colour=colour,
        shape=shape,
        mask=blob.astype(bool),
        centroid=((x + 0.5) / width, (y + 0.5) / height),
        area=area / blob.size,
        orientation=angle if shape == "bar" else None,
        confidence=confidence,
    )


def _square_angle(blob: np.ndarray, x: float, y: float) -> float:
    """Angle of a square's sides from the fourth moment E[z^4], which is -side^4 / 60 for an upright one."""
    ys, xs = np.nonzero(blob)
    fourth = (((xs - x) + 1j * (ys - y)) ** 4).mean()
    return float(np.angle(-fourth)) / 4


def _circle(blob: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    ys, xs = np.ogrid[: blob.shape[0], : blob.shape[1]]
    return (xs - x) ** 2 + (ys - y) ** 2 <= radius**2


def _rectangle(blob: np.ndarray, x: float, y: float, length: float, thickness: float, angle: float) -> np.ndarray:
    ys, xs = np.ogrid[: blob.shape[0], : blob.shape[1]]
    along = (xs - x) * math.cos(angle) + (ys - y) * math.sin(angle)
    across = (ys - y) * math.cos(angle) - (xs - x) * math.sin(angle)
    return (np.abs(along) <= length / 2) & (np.abs(across) <= thickness / 2)


def _overlap(blob: np.ndarray, ideal: np.ndarray) -> float:
    """Intersection over union."""
    return float((ideal & (blob > 0)).sum() / (ideal | (blob > 0)).sum())
