"""Scenes as training data in the form that the trainers read: pictures, captions, and what a ControlNet is told.

    python -m limelight.shapeworld.datasets salient --out DIR --count 20000

saliency  "saliency": where a predictor without weights looks; of several objects, now and then at one of them only
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
import torch
from PIL import Image
from tqdm import tqdm

from ..guidance.errors import LimelightError
from ..guidance.local import edges
from ..guidance.regions import raster
from ..models.signature_saliency import SignatureSaliency
from ..tools.console import StepFailed, main_guard, say
from ..training import shards
from .scenes import SIDE, random_scene, render

SHARD = 1000  # scenes
ONE = 0.7  # share of the scenes with several objects whose map is that of one
AROUND, SOFT, BLUR = 13, 2.5, 4.0  # pixels around an object, of the window's rim, of the map: users draw no rims

Made = dict[str, np.ndarray]


def saliency(image: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> Made:
    """A picture uint8 (H, W, 3) and its objects' coverage (n, H, W) in [0, 1] -> the images beside it, by name.

    A map of everything says no more than the caption; one of a single object says where that has to be, which is what
    users draw.
    """
    cv2 = raster.opencv()
    given = torch.from_numpy(image)[None].float() / 255
    found = SignatureSaliency().predict(given)[0].numpy()
    if len(masks) > 1 and rng.random() < ONE:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (AROUND, AROUND))
        window = cv2.dilate((masks[rng.integers(len(masks))] > 0.5).astype(np.float32), disc)
        found = found * cv2.GaussianBlur(window, (0, 0), SOFT)
    found = cv2.GaussianBlur(found, (0, 0), BLUR)
    return {"saliency": np.round(found / max(found.max(), 1e-6) * 255).astype(np.uint8)}


def salient(image: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> Made:
    """The same with the mask of the first object."""
    return {"mask": np.round(masks[0] * 255).astype(np.uint8)}


def local(image: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> Made:
    """The same with the edges, one pixel wide, as Local Control's hint node finds them."""
    return {"hint": np.uint8(255) * edges.canny(image.astype(np.float32) / 255)}


KINDS: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], Made]]
KINDS = {"saliency": saliency, "salient": salient, "local": local}


def samples(kind: str, count: int, seed: Any, side: int = SIDE) -> Iterator[dict[str, Any]]:
    """As `training.samples` will yield them."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        scene = random_scene(rng)
        image, masks = render(scene, side, rng)
        more = {name: Image.fromarray(values) for name, values in KINDS[kind](image, masks, rng).items()}
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
