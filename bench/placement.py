"""Do highlighted objects go where their strokes are? Two-object prompts, one stroke an object.

    python dev.py bench placement [--count N] [--seed S] [--out FILE] [--rows NAME ...] [--images FOLDER]

hit: share of objects with the right colour and shape whose centroid is within 0.12 of the stroke's and that cover half
of the stroke. presence: share of objects that are there at all. orientation_error_deg: median over the bars that are
there, mod pi. overhead: sampling time over that of the unguided run, all rows interleaved. Strokes keep away
from where the unguided images of both samplers have the same object, so an image that ignores them cannot hit.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from statistics import median
from typing import Any

from tqdm import tqdm

from ..guidance.binding import KEY, bind
from ..guidance.document import Stroke as DocumentStroke
from ..guidance.published import METHODS, attach_published
from ..guidance.raster import coverage
from ..guidance.step import attach
from ..shapeworld.reader import Found, object_of, presence, read
from . import table
from .prompts import STROKE_WIDTH, Prompt, Stroke, document, hit, orientation_error, strokes_for, two_object_prompts
from .sampling import SCALE, SIDE, STEPS, World, decode, encode, load_world, sample
from .shapeworld import image_seed
from .sheets import add_images_option, save_sheet

NAME = "placement"
SAMPLERS = ("euler", "dpmpp_2m")
UNGUIDED = "unguided"
ROWS = (UNGUIDED, "limelight", *METHODS)


def models(plain: Any, rows: list[str]) -> dict[str, Any]:
    """The MODEL of every row."""
    made = {UNGUIDED: plain}
    for row in rows:
        if row == "limelight":
            made[row] = attach(plain)
        elif row in METHODS:
            made[row] = attach_published(plain, row)
    return made


def score(found: list[Found], prompt: Prompt, strokes: list[Stroke]) -> dict[str, list[float]]:
    """What one image adds to each metric: a value for each object, bars' errors where the bar is there."""
    drawn = [coverage([DocumentStroke(stroke.points, STROKE_WIDTH)], SIDE, SIDE) for stroke in strokes]
    errors = [orientation_error(found, stroke) for stroke in strokes]
    return {
        "hit": [hit(found, stroke.phrase, cells) for stroke, cells in zip(strokes, drawn, strict=True)],
        "presence": [presence(found, prompt.phrases)],
        "orientation_error_deg": [error for error in errors if error is not None],
    }


def run(world: World, count: int, seed: int, rows: list[str], images: Any = None) -> list[dict]:
    """The rows of the table: all samplers together, then each by itself."""
    negative, guided = encode(world.clip, ""), models(world.model, rows)
    scores: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    prompts = two_object_prompts(seed, count)
    bar = tqdm(total=count * len(SAMPLERS) * len(guided), desc=NAME, unit="image", smoothing=0.05)
    for index, prompt in enumerate(prompts):
        noise = image_seed(seed, index)

        def make(row: str, sampler: str, positive: list, noise: int = noise):
            latent, seconds = sample(guided[row], positive, negative, noise, sampler)
            bar.update()
            return decode(world.vae, latent), seconds

        positive = encode(world.clip, prompt.caption)
        made = {(UNGUIDED, sampler): make(UNGUIDED, sampler, positive) for sampler in SAMPLERS}
        avoided = [object_of(read(image), phrase) for image, _ in made.values() for phrase in prompt.phrases]
        strokes = strokes_for(seed, index, prompt, [thing for thing in avoided if thing is not None])
        bound = encode(world.clip, prompt.caption, **{KEY: bind(world.clip, prompt.caption, document(strokes))})
        for row in guided:
            if row != UNGUIDED:
                made |= {(row, sampler): make(row, sampler, bound) for sampler in SAMPLERS}
        for key, (image, seconds) in made.items():
            for metric, values in score(read(image), prompt, strokes).items():
                scores[key][metric] += values
            scores[key]["seconds"].append(seconds)
        labelled = {f"{row} {sampler}": image for (row, sampler), (image, _) in made.items()}
        save_sheet(images, index, prompt.caption, labelled, strokes)
    bar.close()
    together = [summary(row, row, SAMPLERS, scores) for row in guided]
    return together + [summary(f"{row} {one}", row, (one,), scores) for one in SAMPLERS for row in guided]


def summary(title: str, row: str, samplers: tuple[str, ...], scores: dict) -> dict:
    """One row over some samplers."""

    def values(metric: str, of: str = row) -> list[float]:
        return [value for sampler in samplers for value in scores[of, sampler][metric]]

    def mean(metric: str) -> float:
        return sum(values(metric)) / len(values(metric))

    errors = values("orientation_error_deg")
    return {
        "row": title,
        "hit": mean("hit"),
        "presence": mean("presence"),
        "orientation_error_deg": median(errors) if errors else None,
        "overhead": sum(values("seconds")) / sum(values("seconds", UNGUIDED)),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    add_images_option(parser)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="only these, beside unguided")


def main() -> None:
    options = table.arguments(NAME, __doc__.splitlines()[0], count=100, add=add_options)
    rows = run(load_world(), options.count, options.seed, options.rows, options.images)
    command = table.command(NAME, options.count, options.seed)
    table.write(NAME, rows, command, options.out, samplers=list(SAMPLERS), steps=STEPS, scale=SCALE)


if __name__ == "__main__":
    main()
