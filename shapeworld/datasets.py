"""Scenes as training data in the form that the trainers read: pictures, captions, and what a ControlNet is told.

    python -m limelight.shapeworld.datasets salient --out DIR --count 20000

salient   "mask": the first object, white, edges soft
local     "hint": the edges, white on black
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..guidance.errors import LimelightError
from ..guidance.local import edges
from ..tools.console import StepFailed, main_guard, say
from ..training import shards
from .scenes import SIDE, random_scene, render

SHARD = 1000  # scenes


def salient(image: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """A picture uint8 (H, W, 3) and its objects' coverage (n, H, W) in [0, 1] -> the images beside it, by name."""
    return {"mask": np.round(masks[0] * 255).astype(np.uint8)}


def local(image: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """The same with its edges, one pixel wide, as Local Control's hint node finds them."""
    return {"hint": np.uint8(255) * edges.canny(image.astype(np.float32) / 255)}


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]] = {"salient": salient, "local": local}


def samples(kind: str, count: int, seed: Any, side: int = SIDE) -> Iterator[dict[str, Any]]:
    """As `training.samples` will yield them."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        scene = random_scene(rng)
        image, masks = render(scene, side, rng)
        more = {name: Image.fromarray(values) for name, values in KINDS[kind](image, masks).items()}
        named = {"key": f"{number:06d}", "row": number, "text": scene.caption}
        yield {**named, "image": Image.fromarray(image), **more}


def write(kind: str, folder: Path, count: int, seed: int, form: str) -> None:
    """Write scenes into a folder; one that was begun is gone on with. Raises LimelightError."""
    settings = {"kind of data": kind, "count": count, "seed": seed}
    there = shards.Shards(folder, -(-count // SHARD), form, settings, "png")
    for number in tqdm(there.missing(), desc=kind, unit="shard"):
        there.write(number, samples(kind, min(SHARD, count - number * SHARD), [seed, number]), [])
    there.finish()


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=tuple(KINDS))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=20_000, help="scenes (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--form", choices=shards.FORMS, default=shards.FORMS[0], help="(default %(default)s)")
    args = parser.parse_args()
    try:
        write(args.kind, args.out, args.count, args.seed, args.form)
    except LimelightError as error:
        raise StepFailed(str(error)) from error
    say(f"{args.out}: {args.count} scenes")


if __name__ == "__main__":
    sys.exit(main_guard(main))
