"""Do highlighted objects go where their strokes are? Two-object prompts, one stroke an object.

    python dev.py bench placement [--count N] [--seed S] [--out FILE] [--rows NAME ...] [--images FOLDER] [--jobs N]
                               [--scores FILE]

hit: share of objects with the right colour and shape whose centroid is within 0.12 of the stroke's and that cover half
of the stroke; hit_low, hit_high: the lowest and highest over three sets, a third of the prompts and their seeds each.
presence: share of objects that are there at all. orientation_error_deg: median over the bars that are there, mod pi.
overhead: processor time of sampling over that of the unguided run, all rows interleaved. Strokes keep away from where
the unguided images of both samplers have the same object, so an image that ignores them cannot hit.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from ..guidance.attention import bias
from ..guidance.attention.published import METHODS, attach_published
from ..guidance.attention.step import attach
from ..guidance.prompts.binding import KEY, bind
from ..guidance.regions.document import Stroke as DocumentStroke
from ..guidance.regions.raster import coverage
from ..shapeworld.reader import Found, object_of, presence, read
from . import table
from .prompts import STROKE_WIDTH, Prompt, Stroke, document, hit, orientation_error, strokes_for, two_object_prompts
from .sampling import SCALE, SIDE, STEPS, World, decode, encode, load_world, sample
from .scores import add_scores_option, keep, resumed
from .shapeworld import image_seed
from .sheets import add_images_option, save_sheet

NAME = "placement"
SAMPLERS = ("euler", "dpmpp_2m")
UNGUIDED = "unguided"
ROWS = (UNGUIDED, "limelight", "bias", "bias+limelight", *METHODS)
SETS = 3


def guided(plain: Any, row: str) -> Any:
    """The MODEL of a row."""
    if row == UNGUIDED:
        return plain
    if row in METHODS:
        return attach_published(plain, row)
    model = bias.attach(plain) if row.startswith("bias") else plain
    return attach(model) if row.endswith("limelight") else model


def score(found: list[Found], prompt: Prompt, strokes: list[Stroke]) -> dict[str, list[float]]:
    """What one image adds to each metric: a value for each object, bars' errors where the bar is there."""
    drawn = [coverage([DocumentStroke(stroke.points, STROKE_WIDTH)], SIDE, SIDE) for stroke in strokes]
    errors = [orientation_error(found, stroke) for stroke in strokes]
    return {
        "hit": [hit(found, stroke.phrase, cells) for stroke, cells in zip(strokes, drawn, strict=True)],
        "presence": [presence(found, prompt.phrases)],
        "orientation_error_deg": [error for error in errors if error is not None],
    }


def prompt_scores(
    world: World, index: int, prompt: Prompt, seed: int, rows: list[str], images: Path | None = None
) -> dict[str, dict]:
    """One prompt with every row and sampler. -> {"row sampler": {metric: values}}; plain: unguided seconds."""
    negative, positive = encode(world.clip, ""), encode(world.clip, prompt.caption)
    noise = image_seed(seed, index)

    def make(row: str, conditioning: list) -> dict:
        model, made = guided(world.model, row), {}
        for sampler in SAMPLERS:
            latent, seconds = sample(model, conditioning, negative, noise, sampler)
            made[f"{row} {sampler}"] = decode(world.vae, latent), seconds
        return made

    made = make(UNGUIDED, positive)
    plain = {sampler: made[f"{UNGUIDED} {sampler}"][1] for sampler in SAMPLERS}
    avoided = [object_of(read(image), phrase) for image, _ in made.values() for phrase in prompt.phrases]
    strokes = strokes_for(seed, index, prompt, [thing for thing in avoided if thing is not None])
    bound = encode(world.clip, prompt.caption, **{KEY: bind(world.clip, prompt.caption, document(strokes))})
    for row in rows:
        made |= make(row, bound) if row != UNGUIDED else {}
    save_sheet(images, index, prompt.caption, {name: image for name, (image, _) in made.items()}, strokes)
    return {
        name: score(read(image), prompt, strokes) | {"seconds": [seconds], "plain": [plain[name.split()[1]]]}
        for name, (image, seconds) in made.items()
    }


@functools.cache
def _world(load: Callable[[], World]) -> World:
    """The world of this process, on one thread: processes share the cores."""
    import torch

    torch.set_num_threads(1)
    return load()


def _in_worker(load: Callable[[], World], *arguments: Any) -> dict:
    return prompt_scores(_world(load), *arguments)


def run(
    load: Callable[[], World],
    count: int,
    seed: int,
    rows: list[str],
    images: Path | None,
    jobs: int,
    done: dict[int, dict],
) -> Iterator[tuple[int, dict]]:
    """`prompt_scores` of every prompt, in processes, without the rows that are done. -> index, scores, in any order."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        work = {}
        for index, prompt in enumerate(two_object_prompts(seed, count)):
            missing = [row for row in rows if f"{row} {SAMPLERS[0]}" not in done.get(index, {})]
            if missing:
                work[pool.submit(_in_worker, load, index, prompt, seed, missing, images)] = index
        for job in tqdm(as_completed(work), desc=NAME, unit="prompt", total=len(work)):
            yield work[job], job.result()


def summaries(rows: list[str], found: list[dict]) -> list[dict]:
    """The rows of the table: all samplers together, then each by itself."""
    named = [UNGUIDED, *(row for row in rows if row != UNGUIDED)]
    together = [summary(row, row, SAMPLERS, found) for row in named]
    return together + [summary(f"{row} {one}", row, (one,), found) for one in SAMPLERS for row in named]


def summary(title: str, row: str, samplers: tuple[str, ...], found: list[dict]) -> dict:
    """One row over some samplers. found: by prompt, what `prompt_scores` gives."""

    def values(metric: str, among: list[dict] = found) -> list[float]:
        return [value for scores in among for sampler in samplers for value in scores[f"{row} {sampler}"][metric]]

    hits = [_mean(values("hit", part)) for part in (found[k::SETS] for k in range(SETS)) if part]
    errors = values("orientation_error_deg")
    return {
        "row": title,
        "hit": _mean(values("hit")),
        "hit_low": min(hits),
        "hit_high": max(hits),
        "presence": _mean(values("presence")),
        "orientation_error_deg": median(errors) if errors else None,
        "overhead": sum(values("seconds")) / sum(values("plain")),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main(name: str = NAME, load: Callable[[], World] = load_world, choices: Sequence[str] = ROWS) -> None:
    """The program of the table. load: the world; choices: the rows that there are for it."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        add_images_option(parser)
        parser.add_argument(
            "--rows", nargs="+", choices=choices, default=list(choices), help="only these, and unguided"
        )
        add_scores_option(parser)
        parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")

    options = table.arguments(name, __doc__.splitlines()[0], count=100, add=add_options)
    done = resumed(options.scores)
    jobs = (options.images, options.jobs, done)
    for index, found in run(load, options.count, options.seed, options.rows, *jobs):
        keep(done, index, found, options.scores)
    rows = summaries(options.rows, [done[index] for index in range(options.count)])
    command = table.command(name, options.count, options.seed)
    if options.rows != list(choices):
        command += f" --rows {' '.join(options.rows)}"
    if options.out.parent == table.RESULTS and options.out.stem != name:
        command += f" --out bench/results/{options.out.name}"
    table.write(name, rows, command, options.out, samplers=list(SAMPLERS), steps=STEPS, scale=SCALE)


if __name__ == "__main__":
    main()
