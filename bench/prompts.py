"""Fixed prompts and strokes of the placement table, and what counts as a hit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..guidance.attention.score import centroid_distance, covered
from ..guidance.regions.geometry import angle_between
from ..shapeworld.reader import Found, object_of
from ..shapeworld.scenes import BACKGROUNDS, COLOURS, SHAPES, Thing, caption, random_scene

STROKE_WIDTH = 0.06
AWAY = 0.25  # least distance of a stroke's centre from the unguided object of its phrase
HIT_DISTANCE = 0.12
HIT_COVERAGE = 0.5


@dataclass(frozen=True)
class Prompt:
    """``kinds``: (shape, colour) of the two objects, in the order of the caption."""

    kinds: tuple[tuple[str, str], ...]
    background: str

    @property
    def phrases(self) -> list[str]:
        return [f"{colour} {shape}" for shape, colour in self.kinds]

    @property
    def caption(self) -> str:
        return caption(self.phrases, self.background)


@dataclass(frozen=True)
class Stroke:
    """A straight stroke, coordinates in fractions of the side. ``angle``: radians in [0, pi)."""

    phrase: str
    points: tuple[tuple[float, float], tuple[float, float]]
    angle: float

    @property
    def centre(self) -> tuple[float, float]:
        (x0, y0), (x1, y1) = self.points
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def shape(self) -> dict:
        """The stroke as a shape of the region document."""
        return {"type": "stroke", "points": [list(point) for point in self.points], "width": STROKE_WIDTH}


def two_object_prompts(seed: int, count: int) -> list[Prompt]:
    """Two objects of different colour or shape on one of the backgrounds. The first n of a longer list are the same."""
    rng = np.random.default_rng([seed, 1])
    prompts = []
    for _ in range(count):
        first, second = rng.choice(len(SHAPES) * len(COLOURS), 2, replace=False)
        kinds = tuple((SHAPES[k // len(COLOURS)], tuple(COLOURS)[k % len(COLOURS)]) for k in (first, second))
        prompts.append(Prompt(kinds, str(rng.choice(list(BACKGROUNDS)))))
    return prompts


def stroke_of(rng: np.random.Generator, thing: Thing) -> Stroke:
    """A stroke that a person might draw for the object: a bar along its axis, else any way through the centre."""
    bar = thing.shape == "bar"
    length = rng.uniform(0.34, 0.42) if bar else rng.uniform(0.18, 0.22)  # of the line; round caps add the width
    angle = thing.angle if bar else rng.uniform(0, math.pi)
    dx, dy = math.cos(angle) * length / 2, math.sin(angle) * length / 2
    ends = ((thing.x - dx, thing.y - dy), (thing.x + dx, thing.y + dy))
    return Stroke(thing.phrase, tuple((round(x, 4), round(y, 4)) for x, y in ends), angle)


def strokes_for(seed: int, index: int, prompt: Prompt, unguided: Iterable[Found] = ()) -> list[Stroke]:
    """One stroke per object of the ``index``-th prompt.

    The strokes are the axes of a random scene's objects, so a picture that follows them exists: everything inside the
    canvas, nothing overlapping. ``unguided``: what was found in the prompt's unguided images; every stroke's centre
    keeps AWAY from the objects of its own phrase there, so that an image that ignores the strokes cannot hit.
    """
    rng = np.random.default_rng([seed, 2, index])
    avoided = [(thing.phrase, thing.centroid) for thing in unguided]
    for _ in range(5000):
        things = random_scene(rng, list(prompt.kinds)).things
        if all(
            math.dist((thing.x, thing.y), spot) >= AWAY
            for thing in things
            for phrase, spot in avoided
            if phrase == thing.phrase
        ):
            return [stroke_of(rng, thing) for thing in things]
    raise RuntimeError(f"no room for strokes away from the unguided objects of {prompt.caption!r}")


def document(strokes: Sequence[Stroke]) -> dict:
    """The strokes as a region document (HIGHLIGHTS, version 1), one highlight per phrase."""
    return {
        "version": 1,
        "highlights": [
            {"phrase": stroke.phrase, "occurrence": 1, "strength": 1.0, "instances": [{"shapes": [stroke.shape]}]}
            for stroke in strokes
        ],
    }


def hit(found: list[Found], phrase: str, coverage: np.ndarray) -> bool:
    """Whether the phrase's object stands on its stroke.

    ``coverage``: (h, w) in [0, 1], the stroke at the image's size. The object must have the right colour and shape, its
    centroid must lie within HIT_DISTANCE (of the image side) of the stroke's, and its mask must cover at least
    HIT_COVERAGE of the stroke.
    """
    thing = object_of(found, phrase)
    if thing is None:
        return False
    near = distance_to(thing, coverage) <= HIT_DISTANCE
    return near and covered(thing.mask, coverage) >= HIT_COVERAGE


def distance_to(thing: Found, coverage: np.ndarray) -> float:
    """From the object's centroid to the stroke's, in fractions of the side. ``coverage``: as for ``hit``."""
    return centroid_distance(thing.mask, coverage)


def orientation_error(found: list[Found], stroke: Stroke) -> float | None:
    """Degrees between a bar's long axis and its stroke, mod pi: 0..90. None for other shapes and absent bars."""
    thing = object_of(found, stroke.phrase)
    if thing is None or thing.orientation is None:
        return None
    return angle_between(thing.orientation, stroke.angle)
