"""Does a kept subject grow when its background is painted anew? Subjects of shapeworld, masks exact.

    python dev.py bench expansion [--count N] [--seed S] [--out FILE] [--images FOLDER] [--scores FILE]

Each subject stands alone on a plain old background. Everything around its exact mask is painted by shapeworld's
inpainting UNet (stock InpaintModelConditioning), eight seeds a subject, without and with the ControlNet that was
trained for it; the prompt names the subject, another object and a new background; then the subject's own pixels are put
back. expansion: what the scene reader finds in the subject's colour and connected to it, outside its mask and farther
than BAND pixels from it, as a share of the picture; relative: over the subject's area; grown: share of the pictures
where that is more than a tenth. prompt_satisfied: mean of "the background has its colour" and "the other object is
there". Rows of single pictures are means over all seeds; best-of-8 takes the picture that expands least.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..guidance.expansion import guard
from ..guidance.expansion.measure import expansion
from ..shapeworld.reader import Found, object_of, read
from ..shapeworld.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing, caption, random_thing, render
from . import table
from .sampling import SCALE, STEPS, World, control_file, decode_all, encode, load_world, sample
from .scores import add_images_and_scores, keep, resumed
from .shapeworld import image_seed
from .sheets import save_sheet
from .workflow import INPAINT

NAME = "expansion"
SEEDS = 8
NOISE_MASK = False  # the kept latents are not forced: on this small grid few cells are all subject
BAND = 3.0  # pixels at the rim that reader and autoencoder may err by
GROWN = 0.1
METHODS = PLAIN, GUARD, CONTROLNET, BOTH = "plain", "guard", "controlnet", "controlnet+guard"
BEST = f"best-of-{SEEDS}"
ROWS = {method: method for method in METHODS} | {
    BEST: PLAIN,
    f"{GUARD}+{BEST}": GUARD,
    f"{CONTROLNET}+{BEST}": CONTROLNET,
}


@dataclass(frozen=True)
class Case:
    """A subject on its old background, and what is to be around it."""

    subject: Thing
    old: str
    other: str
    background: str

    @property
    def caption(self) -> str:
        return caption([self.subject.phrase, self.other], self.background)


def cases(seed: int, count: int) -> list[Case]:
    """The first n of a longer list are the same."""
    rng = np.random.default_rng([seed, 6])
    made = []
    for _ in range(count):
        one, two = rng.choice(len(SHAPES) * len(COLOURS), 2, replace=False)
        (shape, colour), (form, paint) = (
            (SHAPES[k // len(COLOURS)], tuple(COLOURS)[k % len(COLOURS)]) for k in (one, two)
        )
        if colour == paint:  # the reader tells objects apart by colour
            paint = next(name for name in COLOURS if name != colour)
        old, new = rng.choice(list(BACKGROUNDS), 2, replace=False)
        made.append(Case(random_thing(rng, shape, colour), str(old), f"{paint} {form}", str(new)))
    return made


def background_of(image: np.ndarray, things: np.ndarray) -> str:
    """The name of the plain colour that most of what is no thing (bool (h, w)) comes nearest to."""
    colour = np.median(image[~things], axis=0)
    return min(BACKGROUNDS, key=lambda name: np.abs(colour - BACKGROUNDS[name]).max())


def of_colour(found: list[Found], colour: str, shape: tuple[int, int]) -> np.ndarray:
    """bool (h, w): where one of the things has that colour."""
    return np.logical_or.reduce([np.zeros(shape, bool), *(thing.mask for thing in found if thing.colour == colour)])


def score(image: np.ndarray, case: Case, mask: np.ndarray) -> dict[str, float]:
    """One generated picture, uint8 (h, w, 3); mask: the subject's, bool (h, w)."""
    found = read(image)
    report, _ = expansion(mask, of_colour(found, case.subject.colour, mask.shape), BAND)
    things = np.logical_or.reduce([mask, *(thing.mask for thing in found)])
    seen = background_of(image, things) == case.background if not things.all() else False
    return {
        "relative": report["attached"],
        "expansion": report["attached"] * mask.mean(),
        "detached": report["detached"],
        "lost": report["lost"],
        "prompt_satisfied": (float(seen) + float(object_of(found, case.other) is not None)) / 2,
    }


class Painter:
    """Paints backgrounds with shapeworld's inpainting UNet, with and without the ControlNet."""

    def __init__(self, world: World) -> None:
        import nodes

        self.world, self.prepare, self.apply = world, nodes.InpaintModelConditioning(), nodes.ControlNetApplyAdvanced()
        self.control: Any = None

    def paint(self, case: Case, seed: int, method: str, settings: dict | None = None) -> tuple[np.ndarray, np.ndarray]:
        """-> SEEDS pictures uint8, and the subject's mask, bool."""
        import torch

        picture, (cover,) = render(Scene((case.subject,), case.old))
        mask = cover > 0.5
        model = self.world.model
        if method in (GUARD, BOTH):
            model = guard.attach(model, [mask.astype(np.float32)], **(settings or {}))
        sides = [encode(self.world.clip, text) for text in (case.caption, "")]
        with torch.inference_mode():
            pixels = torch.from_numpy(picture)[None].float() / 255
            hole = torch.from_numpy(~mask)[None].float()
            positive, negative, latent = self.prepare.encode(*sides, pixels, self.world.vae, hole, NOISE_MASK)
            latent = {**latent, "samples": latent["samples"].repeat(SEEDS, 1, 1, 1)}
            if method in (CONTROLNET, BOTH):
                positive, negative = self.controlled(positive, negative, torch.from_numpy(1 - cover)[None].float())
        painted = decode_all(self.world.vae, sample(model, positive, negative, seed, latent=latent)[0])
        return np.where(mask[..., None], picture, painted), mask

    def controlled(self, positive: list, negative: list, ground: Any) -> tuple[list, list]:
        """Both CONDITIONINGs under the ControlNet, as Salient Background does it. ground (1, H, W): 1 = paint, soft."""
        from ..models.inpaint_files import load_control_net

        self.control = self.control or load_control_net(control_file("salient_object"), "control_net_name")
        hint = ground[..., None].expand(-1, -1, -1, 3)
        return self.apply.apply_controlnet(positive, negative, self.control, hint, 1.0, 0.0, 1.0)


def subject_scores(
    painter: Painter, index: int, case: Case, seed: int, methods: list[str], images: Path | None = None
) -> dict[str, list[dict]]:
    """-> by method, the scores of each of its pictures."""
    made, shown = {}, {}
    for method in methods:
        pictures, mask = painter.paint(case, image_seed(seed, index), method)
        made[method] = [score(picture, case, mask) for picture in pictures]
        for number in range(3):
            shown[f"{method} {number}: {made[method][number]['relative']:.2f}"] = pictures[number]
    save_sheet(images, index, case.caption, shown)
    return made


def summary(row: str, found: list[dict[str, list[dict]]]) -> dict:
    """One row of the table. found: by subject, what `subject_scores` gives."""
    pictures = [one for scores in found for one in _chosen(scores[ROWS[row]], row.endswith(BEST))]
    means = {
        key: float(np.mean([one[key] for one in pictures])) for key in ("expansion", "relative", "prompt_satisfied")
    }
    return {"row": row, **means, "grown": float(np.mean([one["relative"] > GROWN for one in pictures]))}


def _chosen(pictures: list[dict], best: bool) -> list[dict]:
    return [min(pictures, key=lambda one: one["relative"])] if best else pictures


def main() -> None:
    options = table.arguments(NAME, __doc__.splitlines()[0], count=100, add=add_images_and_scores)
    done = resumed(options.scores)
    painter = None
    for index, case in enumerate(tqdm(cases(options.seed, options.count), desc=NAME, unit="subject")):
        missing = [method for method in METHODS if method not in done.get(index, {})]
        if not missing:
            continue
        painter = painter or Painter(load_world(inpaint=INPAINT))
        found = subject_scores(painter, index, case, options.seed, missing, options.images)
        keep(done, index, found, options.scores)
    rows = [summary(row, [done[index] for index in range(options.count)]) for row in ROWS]
    command = table.command(NAME, options.count, options.seed)
    table.write(NAME, rows, command, options.out, sampler="euler", steps=STEPS, scale=SCALE, seeds=SEEDS, band=BAND)


if __name__ == "__main__":
    main()
