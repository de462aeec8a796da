"""Does Local Structure give a region the reference's edges, and leave the rest alone? Shapeworld, no adapter.

    python dev.py bench local-control [--count N] [--seed S] [--out FILE] [--images FOLDER] [--scores FILE]

Each case is a drawn scene as reference, its caption as prompt, and as region a box around the scene's first object.
edge_f1_inside: F1 of the edges in the region, 2 pixels tolerance, against the scene's; precision and recall likewise.
structure: the node with its own settings. structure-second-pass: the finished unguided image, its region made anew from
noise (Set Latent Noise Mask) with structure from the start and no feather; overhead counts both passes.
outside_change: mean absolute difference from the unguided image of the same seed outside the region, in levels of 0 to
255. A decoder carries some of the region's content around the whole picture; outside_own is the change without that:
the latent cells that the region does not touch, decoded among those of the unguided image. structure-unmasked is the
same guidance with the whole image as region; outside_share and own_share: outside_change and outside_own over those of
structure-unmasked. overhead: processor time of sampling over that of the unguided run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from tqdm import tqdm

from ..guidance.local import edges, score
from ..guidance.regions import raster
from ..shapeworld.scenes import Scene, random_scene, render
from . import table
from .sampling import SCALE, SIDE, STEPS, World, decode, encode, load_world, sample
from .scores import add_scores_option, keep, resumed
from .shapeworld import image_seed
from .sheets import add_images_option, save_sheet

NAME = "local-control"
MARGIN = 0.06  # of the region around the object, in shares of the side
UNGUIDED, MASKED, AGAIN, UNMASKED = ROWS = "unguided", "structure", "structure-second-pass", "structure-unmasked"
SECOND = {"start_percent": 0.1, "feather": 0.0}  # settings of the second pass
METRICS = ("edge_f1_inside", "precision", "recall", "outside_change", "outside_own")


def case(seed: int, index: int) -> tuple[Scene, np.ndarray, np.ndarray]:
    """-> the scene, its picture uint8 (SIDE, SIDE, 3), the region (SIDE, SIDE) float32, 0 or 1."""
    rng = np.random.default_rng([seed, 4, index])
    scene = random_scene(rng)
    picture, masks = render(scene, SIDE, rng)
    rows, columns = np.nonzero(masks[0])
    margin, region = round(MARGIN * SIDE), np.zeros((SIDE, SIDE), np.float32)
    top, left = (max(0, int(cells.min()) - margin) for cells in (rows, columns))
    region[top : rows.max() + 1 + margin, left : columns.max() + 1 + margin] = 1
    return scene, picture, region


def guided(world: World, picture: np.ndarray, region: np.ndarray, **changes: float) -> Any:
    """The MODEL as the node makes it with its own settings, but for ``changes``."""
    import torch

    from ..guidance.local.structure import Steps, attach

    with torch.inference_mode():
        reference = world.vae.encode(torch.from_numpy(picture)[None].float() / 255)
    return attach(world.model, reference, region[None], Steps(), **changes)


def scores(image: np.ndarray, plain: np.ndarray, picture: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """One image, all uint8 (SIDE, SIDE, 3). A scene's region has edges, so F1 is always defined."""
    image, plain, picture = (each.astype(np.float32) / 255 for each in (image, plain, picture))
    edge = score.match(edges.canny(image), edges.canny(picture), region >= 0.5)
    return {
        "edge_f1_inside": edge["f1"],
        "precision": edge["precision"],
        "recall": edge["recall"],
        "outside_change": 255 * score.outside_change(image, plain, region),
    }


def scene_scores(world: World, seed: int, index: int, images: Path | None = None) -> dict[str, dict[str, float | None]]:
    """One case. -> {row: {metric: value}}; None: nothing was found that could be precise."""
    import torch

    scene, picture, region = case(seed, index)
    positive, negative = encode(world.clip, scene.caption), encode(world.clip, "")
    models = {
        UNGUIDED: world.model,
        MASKED: guided(world, picture, region),
        UNMASKED: guided(world, picture, np.ones_like(region)),
    }
    latents, seconds, free = {}, {}, torch.from_numpy(raster.resample(region, SIDE // 8, SIDE // 8) == 0)
    for row, model in models.items():
        latents[row], seconds[row] = sample(model, positive, negative, image_seed(seed, index))
    again = {"samples": latents[UNGUIDED], "noise_mask": torch.from_numpy(region)[None, None]}
    model = guided(world, picture, region, **SECOND)
    latents[AGAIN], second = sample(model, positive, negative, image_seed(seed, index) + 1, latent=again)
    seconds[AGAIN] = seconds[UNGUIDED] + second
    made = {row: decode(world.vae, latents[row]) for row in ROWS}
    found = {}
    for row, image in made.items():
        found[row] = scores(image, made[UNGUIDED], picture, region)
        own = decode(world.vae, torch.where(free, latents[row], latents[UNGUIDED]))
        found[row] |= {"outside_own": scores(own, made[UNGUIDED], picture, region)["outside_change"]}
        found[row] |= {"seconds": seconds[row], "plain": seconds[UNGUIDED]}
    line = outline(region)[..., None]
    shown = {"reference": picture} | made
    shown = {name: np.where(line, np.uint8([255, 0, 255]), one) for name, one in shown.items()}
    save_sheet(images, index, scene.caption, shown)
    return {
        row: {key: None if value != value else value for key, value in values.items()} for row, values in found.items()
    }


def outline(region: np.ndarray) -> np.ndarray:
    """(H, W) -> bool: the region's outermost pixels."""
    inside = np.pad(region > 0, 1)
    inner = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return inside[1:-1, 1:-1] & ~inner


def summaries(found: list[dict]) -> list[dict]:
    """The rows of the table. found: by case, what `scene_scores` gives."""

    def mean(row: str, metric: str) -> float | None:
        known = [one[row][metric] for one in found if one[row][metric] is not None]
        return fmean(known) if known else None

    def share(row: str, metric: str) -> float | None:
        whole = mean(UNMASKED, metric)
        return mean(row, metric) / whole if whole else None

    return [
        {
            "row": row,
            **{metric: mean(row, metric) for metric in METRICS},
            "outside_share": share(row, "outside_change"),
            "own_share": share(row, "outside_own"),
            "overhead": sum(one[row]["seconds"] for one in found) / sum(one[row]["plain"] for one in found),
        }
        for row in ROWS
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    add_images_option(parser)
    add_scores_option(parser)


def main() -> None:
    options = table.arguments(NAME, __doc__.splitlines()[0], count=100, add=add_options)
    done = resumed(options.scores)
    missing = [index for index in range(options.count) if index not in done]
    world = load_world() if missing else None
    for index in tqdm(missing, desc=NAME, unit="scene"):
        keep(done, index, scene_scores(world, options.seed, index, options.images), options.scores)
    command = table.command(NAME, options.count, options.seed)
    rows = summaries([done[index] for index in range(options.count)])
    table.write(NAME, rows, command, options.out, sampler="euler", steps=STEPS, scale=SCALE)


if __name__ == "__main__":
    main()
