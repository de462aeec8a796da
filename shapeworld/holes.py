"""Holes for the training of the inpainting UNet: which part of a scene it has to paint.

As in the training of Stable Diffusion's inpainting models (boxes, strokes, everything; they know nothing of objects),
and beside that holes that follow the objects. A mask is uint8 (side, side), 1 = paint, 0 = keep.
"""

from __future__ import annotations

import cv2
import numpy as np

from .scenes import SIDE

KINDS = {"everything": 0.1, "boxes": 0.15, "strokes": 0.15, "window": 0.2, "object": 0.15, "background": 0.25}
"""How often each kind is drawn."""
SHRINK = (4, 9)  # pixels by which the kept part of an object may be smaller than the object


def random_hole(rng: np.random.Generator, objects: np.ndarray, kind: str | None = None) -> np.ndarray:
    """A hole for a scene with ``objects`` (n, side, side), coverage in [0, 1]. ``kind``: one of KINDS; random if None.

    "window" keeps a box or an ellipse, wherever it is; "object" paints an object over; "background" keeps nothing but
    an object, exactly or, in every second scene, its core only: what is kept may be a part of something larger.
    """
    kind = kind or str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if kind == "everything":
        return np.ones((SIDE, SIDE), np.uint8)
    if kind == "boxes":
        return np.maximum.reduce([_box(rng, 0.2, 0.6) for _ in range(rng.integers(1, 4))])
    if kind == "strokes":
        return np.maximum.reduce([_stroke(rng) for _ in range(rng.integers(1, 4))])
    if kind == "window":
        return 1 - (_box(rng, 0.25, 0.7) if rng.random() < 0.5 else _ellipse(rng))
    thing = (objects[rng.integers(len(objects))] > 0.5).astype(np.uint8)
    if kind == "object":
        return cv2.dilate(thing, _disc(int(rng.integers(2, 12))))
    return 1 - (_core(rng, thing) if rng.random() < 0.5 else thing)


def _core(rng: np.random.Generator, thing: np.ndarray) -> np.ndarray:
    """The object without a rim; a bar, which is thin, may leave nothing and then stays whole."""
    core = cv2.erode(thing, _disc(int(rng.integers(*SHRINK))))
    return core if core.any() else thing


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)


def _box(rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    width, height = (rng.uniform(least, most, 2) * SIDE).astype(int)
    x, y = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def _ellipse(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    centre, axes = ((rng.uniform(low, high, 2) * SIDE).astype(int).tolist() for low, high in ((0.2, 0.8), (0.1, 0.35)))
    return cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)


def _stroke(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    points = (rng.uniform(0, 1, (int(rng.integers(2, 6)), 1, 2)) * SIDE).astype(np.int32)
    return cv2.polylines(mask, [points], False, 1, int(rng.integers(8, 25)))
