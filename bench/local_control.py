"""Do Local Structure and local adapters give a region the reference's edges, and leave the rest alone?

    python dev.py bench local-control [--count N] [--seed S] [--out FILE] [--images FOLDER] [--scores FILE]

Each case is a drawn scene as reference, its caption as prompt, and as region a box around the scene's first object.
edge_f1_inside: F1 of the edges in the region, 2 pixels tolerance, against the scene's; precision and recall likewise.
structure: the node with its own settings. structure-second-pass: the finished unguided image, its region made anew from
noise (Set Latent Noise Mask) with structure from the start and no feather; overhead counts both passes.
adapter: T2I-Adapters trained on shapeworld for as many steps each, given the scene's edges and the region as they were
trained to have them: ours (features and hint masked), paper (features masked, as published), global (an ordinary
adapter, its hint black outside of the region).
outside_change: mean absolute difference from the unguided image of the same seed outside the region, in levels of 0 to
255. A decoder carries some of the region's content around the whole picture; outside_own is the change without that:
the latent cells that the region does not touch, decoded among those of the unguided image. unmasked: with the whole
image as region; outside_share and own_share: outside_change and outside_own over those of the same method unmasked.
overhead: processor time of sampling over that of the unguided run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from tqdm import tqdm

from ..guidance.local import edges, score
from ..guidance.regions import raster
from ..shapeworld.scenes import Scene, random_scene, render
from . import table
from .sampling import SCALE, SIDE, STEPS, World, control_file, decode, encode, load_world, sample
from .scores import add_images_and_scores, keep, resumed
from .shapeworld import image_seed
from .sheets import outlined, save_sheet

NAME = "local-control"
MARGIN = 0.06  # of the region around the object, in shares of the side
UNGUIDED = "unguided"
MASKED, AGAIN, UNMASKED = STRUCTURE = "structure", "structure-second-pass", "structure-unmasked"
# rows of adapters: file, and what the region is put on (None: no region)
ADAPTERS = {
    "adapter": ("local", "both"),
    "adapter-unmasked": ("local", None),
    "adapter-paper": ("local_paper", "features"),
    "adapter-paper-unmasked": ("local_paper", None),
    "adapter-global": ("local_global", "hint"),
    "adapter-global-unmasked": ("local_global", None),
}
ROWS = UNGUIDED, *STRUCTURE, *ADAPTERS
# rows that are the same without a region, for shares
WHOLE = {row: UNMASKED for row in STRUCTURE} | {row: f"{row.removesuffix('-unmasked')}-unmasked" for row in ADAPTERS}
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


def controlled(both: list[list], picture: np.ndarray, region: np.ndarray, row: str) -> tuple[list, list]:
    """Both CONDITIONINGs under an adapter, as Apply Masked Control makes them. row: of ADAPTERS."""
    import torch

    import nodes

    from ..guidance.local.adapter_control import AdapterControl
    from ..guidance.local.region import Region
    from ..models import adapter_files

    name, where = ADAPTERS[row]
    control = AdapterControl(adapter_files.load(control_file(name), adapter_files.KINDS[0]))
    if where is not None:
        halo = 0.0 if where == "hint" else None  # what is masked outside of the network is cut at the region's border
        control = control.with_region(Region(torch.from_numpy(region)[None], where, halo=halo))
    hint = torch.from_numpy(edges.canny(picture.astype(np.float32) / 255).astype(np.float32))
    hint = hint[None, ..., None].expand(-1, -1, -1, 3)
    return nodes.ControlNetApplyAdvanced().apply_controlnet(*both, control, hint, 1.0, 0.0, 1.0)


def scene_scores(
    world: World, seed: int, index: int, rows: Sequence[str] = ROWS[1:], images: Path | None = None
) -> dict[str, dict[str, float | None]]:
    """One case, unguided and the ``rows``. -> {row: {metric: value}}; None: nothing was found that could be precise."""
    import torch

    scene, picture, region = case(seed, index)
    both = [encode(world.clip, scene.caption), encode(world.clip, "")]
    free = torch.from_numpy(raster.resample(region, SIDE // 8, SIDE // 8) == 0)
    first, plain = sample(world.model, *both, image_seed(seed, index))
    latents, seconds = {UNGUIDED: first}, {UNGUIDED: plain}
    for row in rows:
        if row == AGAIN:
            again = {"samples": first, "noise_mask": torch.from_numpy(region)[None, None]}
            model = guided(world, picture, region, **SECOND)
            latents[row], second = sample(model, *both, image_seed(seed, index) + 1, latent=again)
            seconds[row] = plain + second
        elif row in ADAPTERS:
            prompts = controlled(both, picture, region, row)
            latents[row], seconds[row] = sample(world.model, *prompts, image_seed(seed, index))
        else:
            model = guided(world, picture, region if row == MASKED else np.ones_like(region))
            latents[row], seconds[row] = sample(model, *both, image_seed(seed, index))
    made = {row: decode(world.vae, latent) for row, latent in latents.items()}
    found = {}
    for row, image in made.items():
        found[row] = scores(image, made[UNGUIDED], picture, region)
        own = decode(world.vae, torch.where(free, latents[row], first))
        found[row] |= {"outside_own": scores(own, made[UNGUIDED], picture, region)["outside_change"]}
        found[row] |= {"seconds": seconds[row], "plain": plain}
    shown = {name: outlined(one, region) for name, one in ({"reference": picture} | made).items()}
    save_sheet(images, index, scene.caption, shown)
    return {
        row: {key: None if value != value else value for key, value in values.items()} for row, values in found.items()
    }


def summaries(found: list[dict]) -> list[dict]:
    """The rows of the table. found: by case, what `scene_scores` gives."""

    def mean(row: str, metric: str) -> float | None:
        known = [one[row][metric] for one in found if one[row][metric] is not None]
        return fmean(known) if known else None

    def share(row: str, metric: str) -> float | None:
        whole = mean(WHOLE[row], metric) if row in WHOLE else None
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


def main() -> None:
    options = table.arguments(NAME, __doc__.splitlines()[0], count=100, add=add_images_and_scores)
    done = resumed(options.scores)
    world = None
    for index in tqdm(range(options.count), desc=NAME, unit="scene"):
        if missing := [row for row in ROWS if row not in done.get(index, {})]:
            world = world or load_world()
            rows = [row for row in missing if row != UNGUIDED]
            keep(done, index, scene_scores(world, options.seed, index, rows, options.images), options.scores)
    command = table.command(NAME, options.count, options.seed)
    rows = summaries([done[index] for index in range(options.count)])
    table.write(NAME, rows, command, options.out, sampler="euler", steps=STEPS, scale=SCALE)


if __name__ == "__main__":
    main()
