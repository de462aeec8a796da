"""Does saliency guidance draw attention to a place? Two-object prompts, a target spot each, eight images a prompt.

    python dev.py bench saliency [--count N] [--seed S] [--out FILE] [--images FOLDER] [--scores FILE]

The spot is a Gaussian at random, with no regard to the prompt; the guidance and the ControlNet, which was trained on
shapeworld, get it as their map. controlnet: both prompts under the map, as in GazeFusion; -positive: the negative one
goes without. One predictor without weights guides and selects, the other judges; in the rows named "swapped" they
change places. Every figure is the judge's, averaged over prompts: attention_share: of the attention, in the spot's area
down to half of its height (area_share of the picture). cc: with the spot. presence: share of the prompt's objects that
are there. object_on_target: share of images with one of them on the spot's centre. others: objects that nobody asked
for, an image. best-of-8 is the image whose map, by the guide, has the highest cc; the rows without it are the means of
all eight. shuffled_share, shuffled_cc: the same images against the spots of other prompts. centre-bias: what the middle
of the picture earns; drawn: what drawn scenes earn, one of the objects in the spot's centre and the other away from it.
gain: attention_share over that of unguided. overhead: processor time over that of unguided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..guidance.saliency import metrics
from ..guidance.saliency.maps import centre_bias, gaussians, parse_blobs
from ..shapeworld.reader import presence, read
from ..shapeworld.scenes import Scene, random_thing, render
from . import table
from .prompts import Prompt, two_object_prompts
from .sampling import SCALE, SIDE, STEPS, World, control_file, decode_all, encode, load_world, sample
from .scores import add_images_and_scores, keep, resumed
from .shapeworld import image_seed
from .sheets import outlined, save_sheet

NAME = "saliency"
IMAGES = 8  # of each prompt
SIGMA = 0.12  # of the spot, in shares of the side
PLACES = 0.22, 0.78  # where its centre may be, across and down
AWAY = 0.42  # of the side, from the spot to the other object of drawn scenes
OTHERS = 4  # spots of other prompts that shuffled figures are averaged over
SIGNATURE, CLASSIC = "signature", "classic"
DIRECTIONS = {"": (SIGNATURE, CLASSIC), "-swapped": (CLASSIC, SIGNATURE)}  # suffix of rows: guide, judge
METHODS = "unguided", "guidance", "controlnet", "controlnet-positive"
UNGUIDED, GUIDANCE, CONTROLNET, POSITIVE = METHODS
BEST = f"best-of-{IMAGES}"
ROWS = (*METHODS, BEST, *(f"{method}+{BEST}" for method in METHODS[1:]))  # of METHODS, then the best of each
METRICS = ("attention_share", "cc", "presence", "object_on_target", "others", "shuffled_share", "shuffled_cc")


def spot(seed: int, index: int) -> np.ndarray:
    """(SIDE, SIDE), peak 1: the target of the ``index``-th prompt."""
    x, y = np.random.default_rng([seed, 3, index]).uniform(*PLACES, 2)
    blob = {"x": float(x), "y": float(y), "sx": SIGMA, "sy": SIGMA}
    return gaussians(parse_blobs({"version": 1, "blobs": [blob]}), SIDE, SIDE)


def share(saliency: np.ndarray, target: np.ndarray) -> float:
    """Of the attention, where the target is at least half as bright as at its peak."""
    return float(metrics.density(saliency)[target >= 0.5 * target.max()].sum())


def score(image: np.ndarray, saliency: np.ndarray, prompt: Prompt, target: np.ndarray, others: Sequence) -> dict:
    """One image by what the judge says of it. image: uint8 (SIDE, SIDE, 3). others: targets of other prompts."""
    found = read(image)
    asked = [thing for thing in found if thing.phrase in prompt.phrases]
    centre = np.unravel_index(target.argmax(), target.shape)
    there = presence(found, prompt.phrases)
    return {
        "attention_share": share(saliency, target),
        "cc": metrics.cc(saliency, target),
        "presence": there,
        "object_on_target": float(any(thing.mask[centre] for thing in asked)),
        "others": len(found) - there * len(prompt.phrases),
        "shuffled_share": float(np.mean([share(saliency, other) for other in others])),
        "shuffled_cc": float(np.mean([metrics.cc(saliency, other) for other in others])),
    }


def predictors() -> dict[str, Any]:
    """Both predictors without weights, by name."""
    from ..models.classic_saliency import ClassicSaliency
    from ..models.saliency import Predictor
    from ..models.signature_saliency import SignatureSaliency

    return {CLASSIC: Predictor.of(ClassicSaliency()), SIGNATURE: Predictor.of(SignatureSaliency())}


def guided(world: World, predictor: Any, target: np.ndarray) -> Any:
    """The MODEL as the node makes it with its own settings and the VAE connected."""
    import torch

    from ..guidance.saliency import decoders
    from ..guidance.saliency.guidance import Steps, Wish
    from ..guidance.saliency.through import attach

    decoder = decoders.full(world.vae, world.model.model.latent_format)
    wish = Wish(torch.from_numpy(target)[None])
    return attach(world.model, predictor, decoder, wish, Steps(iterations=1))


def controlled(positive: list, negative: list, target: np.ndarray) -> list[list]:
    """Both CONDITIONINGs under the ControlNet that was trained on shapeworld, as the node makes them."""
    import comfy.controlnet

    from ..guidance.saliency import control

    network = comfy.controlnet.load_controlnet(str(control_file("saliency")))
    return control.apply({"positive": positive, "negative": negative}, network, target[None], 1.0, (0.0, 1.0))


def prompt_scores(
    world: World,
    eyes: dict[str, Any],
    index: int,
    prompt: Prompt,
    seed: int,
    methods: Sequence[str] = METHODS[1:],
    images: Path | None = None,
) -> dict[str, dict[str, float]]:
    """One prompt: the rows of unguided and of the ``methods``. -> {row: {metric: value}}."""
    import torch

    target = spot(seed, index)
    others = [spot(seed, index + k) for k in range(1, OTHERS + 1)]
    prompts = encode(world.clip, prompt.caption), encode(world.clip, "")
    empty = {"samples": torch.zeros(IMAGES, 4, SIDE // 8, SIDE // 8)}

    def make(model: Any, both: Sequence[list] = prompts) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
        """-> images, maps by predictor, seconds."""
        latent, seconds = sample(model, *both, image_seed(seed, index), latent=empty)
        made = decode_all(world.vae, latent)
        given = torch.from_numpy(made).float() / 255
        return made, {name: predictor.predict(given).numpy() for name, predictor in eyes.items()}, seconds

    made = {UNGUIDED: make(world.model)}
    both = controlled(*prompts, target)
    for method, negative in ((CONTROLNET, both[1]), (POSITIVE, prompts[1])):
        if method in methods:
            made[method] = make(world.model, (both[0], negative))
    plain, found, shown = made[UNGUIDED][2], {}, {UNGUIDED: made[UNGUIDED][0][0]}
    for suffix, (guide, judge) in DIRECTIONS.items():
        if GUIDANCE in methods:
            made[GUIDANCE] = make(guided(world, eyes[guide], target))
        for method, (pictures, maps, seconds) in made.items():
            row, best_row = method + suffix, ROWS[METHODS.index(method) + len(METHODS)] + suffix
            scores = [score(*both, prompt, target, others) for both in zip(pictures, maps[judge], strict=True)]
            best = int(np.argmax([metrics.cc(one, target) for one in maps[guide]]))
            mean = {name: float(np.mean([one[name] for one in scores])) for name in METRICS}
            found[row] = mean | {"seconds": seconds, "plain": plain}
            found[best_row] = scores[best] | {"seconds": seconds, "plain": plain}
            shown |= {row: pictures[0]} if method != UNGUIDED else {}
            shown[best_row] = pictures[best]
    save_sheet(images, index, prompt.caption, {name: outlined(one, target >= 0.5) for name, one in shown.items()})
    return found


def drawn(prompts: Sequence[Prompt], eyes: dict[str, Any], seed: int) -> list[dict]:
    """Rows of drawn scenes: each of the prompt's objects in turn in the spot's centre, the other away from it."""
    import torch

    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in eyes}
    for index, prompt in enumerate(prompts):
        target, rng = spot(seed, index), np.random.default_rng([seed, 7, index])
        y, x = (float(place + 0.5) / SIDE for place in np.unravel_index(target.argmax(), target.shape))
        for number in range(len(prompt.kinds)):
            things = [random_thing(rng, *kind) for kind in prompt.kinds]
            while any(np.hypot(one.x - x, one.y - y) < AWAY for k, one in enumerate(things) if k != number):
                things = [random_thing(rng, *kind) for kind in prompt.kinds]
            things[number] = replace(things[number], x=x, y=y)
            picture = torch.from_numpy(render(Scene(tuple(things), prompt.background), SIDE, rng)[0])[None] / 255
            for name, predictor in eyes.items():
                saliency = predictor.predict(picture.float()).numpy()[0]
                seen[name].append((share(saliency, target), metrics.cc(saliency, target)))
    rows = []
    for suffix, (_, judge) in DIRECTIONS.items():
        means = dict(zip(("attention_share", "cc"), (float(value) for value in np.mean(seen[judge], 0)), strict=True))
        rows.append({"row": f"drawn{suffix}", "judge": judge, **means})
    return rows


def summaries(found: list[dict], seed: int) -> list[dict]:
    """The rows of the table. found: by prompt, what `prompt_scores` gives."""
    middle, targets = centre_bias(SIDE, SIDE), [spot(seed, index) for index in range(len(found))]
    rows = []
    for suffix, (guide, judge) in DIRECTIONS.items():
        base = _mean(found, UNGUIDED + suffix, "attention_share")
        for row in ROWS:
            name = row + suffix
            values = {metric: _mean(found, name, metric) for metric in METRICS}
            seconds, plain = (sum(one[name][key] for one in found) for key in ("seconds", "plain"))
            gain = {"gain": values["attention_share"] / base, "overhead": seconds / plain}
            led = guide if BEST in row or row == GUIDANCE else ""
            rows.append({"row": name, "guide": led, "judge": judge, **values, **gain})
    centre = {
        "row": "centre-bias",
        "attention_share": float(np.mean([share(middle, target) for target in targets])),
        "cc": float(np.mean([metrics.cc(middle, target) for target in targets])),
    }
    return [*rows, centre]


def _mean(found: list[dict], row: str, metric: str) -> float:
    return sum(one[row][metric] for one in found) / len(found)


def main() -> None:
    options = table.arguments(NAME, __doc__.splitlines()[0], count=100, add=add_images_and_scores)
    done = resumed(options.scores)
    prompts = list(enumerate(two_object_prompts(options.seed, options.count)))
    missing = [
        (index, prompt, methods)
        for index, prompt in prompts
        if (methods := [method for method in METHODS[1:] if method not in done.get(index, {})])
    ]
    world = load_world()
    eyes = predictors()
    for index, prompt, methods in tqdm(missing, desc=NAME, unit="prompt"):
        found = prompt_scores(world, eyes, index, prompt, options.seed, methods, options.images)
        keep(done, index, found, options.scores)
    rows = summaries([done[index] for index, _ in prompts], options.seed)
    base = {row["judge"]: row["attention_share"] for row in rows if row["row"].startswith(UNGUIDED)}
    for row in drawn([prompt for _, prompt in prompts], eyes, options.seed):
        rows.append({**row, "gain": row["attention_share"] / base[row["judge"]]})
    area = float(np.mean([(spot(options.seed, index) >= 0.5).mean() for index, _ in prompts]))
    command = table.command(NAME, options.count, options.seed)
    table.write(
        NAME, rows, command, options.out, sampler="euler", steps=STEPS, scale=SCALE, images=IMAGES, area_share=area
    )


if __name__ == "__main__":
    main()
