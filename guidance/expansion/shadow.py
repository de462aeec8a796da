"""The shadow that a subject throws on the floor, as an opacity of its own: (H, W) float32 in [0, 1]."""

from __future__ import annotations

import math

import numpy as np

from ..regions import raster
from ..saliency.maps import blur
from .place import VISIBLE

FORESHORTENING = 0.5  # of lengths on the floor that lead away from the viewer, who looks down at it by 30 degrees
FLATTEST = 0.06  # share of the subject's height that a shadow straight to the side is high


def contact(alpha: np.ndarray, reach: float = 4.0) -> np.ndarray:
    """The dark line where the subject stands, 1 at most: around its lower rim, where that is near the floor.

    reach: in percent of the subject's height, how far the line spreads to the sides and below (a third of it), and how
    high above the floor the rim may be to be dark still. The floor is the subject's lowest row.
    """
    top, bottom, _, _ = _extent(alpha)
    size = max(1.0, reach / 100 * (bottom - top))
    solid = alpha >= 0.5
    columns = solid.any(0)
    rim = len(alpha) - solid[::-1].argmax(0)  # the first row below the subject, in each column
    near = np.where(columns, np.exp(-(((bottom - rim) / size) ** 2) / 2), 0).astype(np.float32)
    # a rim that rises is seen on the floor below it, not at its own height
    floor = np.minimum(rim + (bottom - rim) / 2, bottom)
    rows = np.arange(len(alpha), dtype=np.float32)[:, None] + 0.5
    line = near * np.exp(-(((rows - floor) / (0.35 * size)) ** 2) / 2)
    spread = blur_rows(line.astype(np.float32), size)
    return (spread / max(float(spread.max()), VISIBLE)).clip(0, 1)


def cast(
    alpha: np.ndarray, direction: float = 60.0, length: float = 60.0, softness: float = 6.0, fade: float = 0.7
) -> np.ndarray:
    """The subject's shape laid on the floor, away from the light, softer and paler the farther from its foot.

    direction: where it falls on the picture, in degrees: 0 to the right, 90 towards the viewer, 180 to the left, -90
    away. length: in percent of the subject's height, measured on the floor. softness: the blur at the shadow's far end,
    standard deviation in percent of the subject's height; at the foot it is a quarter of that. fade: share of the
    darkness that is lost on the way.
    """
    top, bottom, _, _ = _extent(alpha)
    tall = bottom - top
    angle, far = math.radians(direction), length / 100
    across, down = far * math.cos(angle), far * math.sin(angle) * FORESHORTENING
    if abs(down) < FLATTEST:
        down = math.copysign(FLATTEST, down)
    cv2 = raster.opencv()
    # the point (x, bottom - t) of the subject lies at (x + across t, bottom + down t)
    shear = np.array([[1, -across, across * bottom], [0, -down, bottom * (1 + down)]])
    shear[:, 2] += shear[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from the middle of the first pixel
    height, width = alpha.shape
    flat = cv2.warpAffine(alpha.astype(np.float32), shear, (width, height), flags=cv2.INTER_LINEAR).clip(0, 1)
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    way = ((rows - bottom) / (down * tall)).clip(0, 1)
    sigma = softness / 100 * tall
    soft = blur(flat, sigma / 4) * (1 - way) + blur(flat, sigma) * way
    return (soft * (1 - fade * way)).clip(0, 1)


def joined(*parts: np.ndarray) -> np.ndarray:
    """Shadows on one another: 1 - prod(1 - part)."""
    light = np.ones_like(parts[0])
    for part in parts:
        light = light * (1 - part)
    return 1 - light


def blur_rows(values: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) smoothed along its rows only."""
    return raster.opencv().GaussianBlur(values, (0, 0), sigmaX=max(sigma, 0.5), sigmaY=0.01)


def _extent(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """top, bottom, left, right of what is at least half opaque, or of all that is visible."""
    seen = alpha >= 0.5
    seen = seen if seen.any() else alpha > VISIBLE
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
