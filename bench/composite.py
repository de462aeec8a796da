"""How clean is the rim of a subject on a new background? Soft cut-outs of shapeworld's objects, whose truth is known.

    python dev.py bench composite [--count N] [--seed S] [--out FILE] [--images FOLDER]

Each object, shaded, with an edge softened by 1 to 4 pixels, lies on an old background and is pasted on a new one.
rim_error: mean absolute difference of the paste from the same object rendered on the new background, over the pixels
whose opacity is between 2 and 98 %, on a scale of 255. ratio: of the plain alpha paste's error to the row's, of all
subjects together; worst_ratio: the smallest of a single subject. Rows: plain, the alpha paste; blurred-fusion, the
published estimate of the subject's colours; limelight, ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..guidance.expansion import composite
from ..shapeworld.scenes import BACKGROUNDS, COLOURS, SHAPES, random_thing, render_mask
from . import table
from .sheets import add_images_option, save_sheet

NAME = "composite"
SIDE = 256


@dataclass(frozen=True)
class Subject:
    """image: as photographed, 8 bits; alpha: its opacity; new: the other background; truth: the object on it."""

    image: np.ndarray
    alpha: np.ndarray
    new: np.ndarray
    truth: np.ndarray


def subject(rng: np.random.Generator) -> Subject:
    """A random object with a soft edge, (SIDE, SIDE), on two backgrounds that differ from each other and from it."""
    thing = random_thing(rng, str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))))
    alpha = cv2.GaussianBlur(render_mask(thing, SIDE), (0, 0), rng.uniform(1, 4))
    alpha = np.where(alpha > 0.998, 1, np.where(alpha < 0.002, 0, alpha)).astype(np.float32)
    old, new = rng.choice(list(BACKGROUNDS), 2, replace=False)
    colours = [np.array(rgb, np.float32) / 255 for rgb in (COLOURS[thing.colour], BACKGROUNDS[old], BACKGROUNDS[new])]
    front, behind, beyond = (_shaded(rgb, rng) for rgb in colours)
    mix = alpha[..., None]
    image = (np.round((front * mix + behind * (1 - mix)) * 255) / 255).astype(np.float32)
    return Subject(image, alpha, beyond, front * mix + beyond * (1 - mix))


def _shaded(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A colour whose brightness falls by up to 30 % across the picture, in any direction."""
    y, x = (np.mgrid[:SIDE, :SIDE] / (SIDE - 1)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)) / np.sqrt(2) + 0.5
    return rgb * (1 - np.float32(rng.uniform(0.1, 0.3)) * along[..., None]).astype(np.float32)


def pastes(one: Subject) -> dict[str, np.ndarray]:
    """The object on its new background by each row's way."""
    clean = composite.foreground(one.image, one.alpha)
    return {
        "plain": composite.over(one.new, one.image, one.alpha),
        "blurred-fusion": composite.over(one.new, fused(one.image, one.alpha), one.alpha),
        "limelight": composite.over(one.new, clean, one.alpha),
    }


def fused(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blurred fusion in two passes, windows of 90 and 6 pixels (Forte, "Approximate Fast Foreground Colour Estimation",
    ICIP 2021)."""
    mix, front, behind = alpha[..., None], image, image
    for window in ((90, 90), (6, 6)):
        share = cv2.blur(alpha, window)[..., None]
        near = cv2.blur(front * mix, window) / (share + 1e-5)
        behind = cv2.blur(behind * (1 - mix), window) / (1 - share + 1e-5)
        front = (near + mix * (image - mix * near - (1 - mix) * behind)).clip(0, 1)
    return front


def rim_error(found: np.ndarray, one: Subject) -> float:
    """Mean absolute difference from the truth where the object is half there, 0..255."""
    rim = (one.alpha > 0.02) & (one.alpha < 0.98)
    return float(np.abs(found - one.truth)[rim].mean() * 255)


def rows(count: int, seed: int, images=None) -> list[dict]:
    """The table, of ``count`` subjects."""
    rng = np.random.default_rng(seed)
    errors: dict[str, list[float]] = {}
    for index in range(count):
        one = subject(rng)
        made = pastes(one)
        for name, picture in made.items():
            errors.setdefault(name, []).append(rim_error(picture, one))
        shown = {"photograph": one.image, **made, "truth": one.truth}
        save_sheet(images, index, "", {k: (v.clip(0, 1) * 255).round().astype(np.uint8) for k, v in shown.items()})
    plain = np.array(errors["plain"])
    return [
        {
            "row": name,
            "rim_error": float(np.mean(found)),
            "ratio": float(plain.sum() / np.sum(found)),
            "worst_ratio": float((plain / np.array(found)).min()),
        }
        for name, found in errors.items()
    ]


def main() -> None:
    options = table.arguments(NAME, __doc__.splitlines()[0], count=50, add=add_images_option)
    found = rows(options.count, options.seed, options.images)
    table.write(NAME, found, table.command(NAME, options.count, options.seed), options.out)


if __name__ == "__main__":
    main()
