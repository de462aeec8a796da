"""Which parts of a picture become training samples. Boxes are (left, top, right, bottom) in pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]

WAYS = ("squares", "centre", "whole")
STEPS = 5  # scales between the largest and the smallest at which a place for an object is looked for
MULTIPLE = 8  # pixels of a cell of the latents


def with_short_side(image: Image.Image, side: int, resample: int = Image.Resampling.BILINEAR) -> Image.Image:
    """The picture with a short side of `side` pixels, its aspect kept; smoothed first where it shrinks."""
    short, long = sorted(image.size)
    other = max(side, int(side * long / short))  # rounded down, as torchvision does
    size = (side, other) if image.width <= image.height else (other, side)
    return image if size == image.size else image.resize(size, resample)


def squares(width: int, height: int) -> list[Box]:
    """Squares of the short side along the long one, each half a square further; GazeFusion's (process.py).

    From the left or the top; one more, flush with the other end, if at least half a stride would be left over.
    """
    side, long = sorted((width, height))
    stride = max(1, side // 2)
    starts = list(range(0, long - side + 1, stride))
    if 2 * ((long - side) % stride) >= stride:
        starts.append(long - side)
    return [(at, 0, at + side, side) if width >= height else (0, at, side, at + side) for at in starts]


def centre(width: int, height: int, across: int, down: int) -> Box:
    """The box of that size in the middle."""
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def boxes(way: str, width: int, height: int) -> list[Box]:
    """What becomes of a picture, by the name of the way.

    squares: see there. centre: the square in the middle. whole: all of it but what is over to a multiple of 8 pixels.
    """
    if way == "squares":
        return squares(width, height)
    if way == "centre":
        return [centre(width, height, min(width, height), min(width, height))]
    return [centre(width, height, width - width % MULTIPLE, height - height % MULTIPLE)]


def around(
    mask: np.ndarray, side: int, share: float, rng: np.random.Generator, down: int | None = None
) -> tuple[Box, float]:
    """A square at random among those that keep `share` of the object, else the one that keeps most of it.

    mask (H, W), not below 0, its short side at least `side`. down: the height, where it is not to be a square. -> the
    box, and the share that it keeps.
    """
    height, width = mask.shape
    down = side if down is None else down
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = mask.cumsum(0, dtype=np.float64).cumsum(1)
    kept = sums[down:, side:] - sums[:-down, side:] - sums[down:, :-side] + sums[:-down, :-side]
    kept /= max(sums[-1, -1], 1e-9)
    good = np.flatnonzero(kept >= share - 1e-9)
    place = int(rng.choice(good)) if len(good) else int(kept.argmax())
    top, left = divmod(place, kept.shape[1])
    return (left, top, left + side, top + down), float(kept[top, left])


def scales(side: int, largest: float) -> list[int]:
    """Short sides to try, from `largest` times `side` down to `side`."""
    return sorted({round(side * largest ** (i / (STEPS - 1))) for i in range(STEPS)}, reverse=True)
