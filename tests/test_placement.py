"""What the placement table measures, on rendered scenes whose truth is known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from limelight.bench.prompts import (
    AWAY,
    STROKE_WIDTH,
    Prompt,
    document,
    hit,
    orientation_error,
    stroke_of,
    strokes_for,
    two_object_prompts,
)
from limelight.shapeworld.reader import object_of, presence, read
from limelight.shapeworld.scenes import SIDE, Scene, Thing, random_scene, render


def draw(stroke, side: int = SIDE) -> np.ndarray:
    """Coverage of a stroke, drawn without the pack."""
    canvas = np.zeros((side, side), np.uint8)
    ends = [tuple(round(v * side * 16) for v in point) for point in stroke.points]
    cv2.line(canvas, *ends, 1, round(STROKE_WIDTH * side), shift=4)
    return canvas.astype(np.float32)


def test_prompts_are_fixed_by_the_seed() -> None:
    prompts = two_object_prompts(0, 50)
    assert prompts == two_object_prompts(0, 50)
    assert prompts[:20] == two_object_prompts(0, 20)
    assert prompts != two_object_prompts(1, 50)
    for prompt in prompts:
        assert prompt.kinds[0] != prompt.kinds[1]
        assert all(phrase in prompt.caption for phrase in prompt.phrases)
    assert len({prompt.caption for prompt in prompts}) > 40
    assert sum("bar" in prompt.caption for prompt in prompts) > 15


def test_strokes_lie_inside_and_apart_and_away_from_the_unguided_objects() -> None:
    prompts = two_object_prompts(3, 40)
    rng = np.random.default_rng(0)
    unguided = [read(render(random_scene(rng, list(prompt.kinds)))[0]) for prompt in prompts]
    for index, (prompt, found) in enumerate(zip(prompts, unguided, strict=True)):
        strokes = strokes_for(3, index, prompt, found)
        assert strokes == strokes_for(3, index, prompt, found)
        assert [stroke.phrase for stroke in strokes] == prompt.phrases
        ends = np.array([stroke.points for stroke in strokes])
        assert (ends >= STROKE_WIDTH / 2).all() and (ends <= 1 - STROKE_WIDTH / 2).all()
        first, second = (draw(stroke) for stroke in strokes)
        grown = cv2.dilate(first, np.ones((2 * round(0.05 * SIDE) + 1,) * 2))
        assert not (grown * second).any()
        for stroke in strokes:
            there = object_of(found, stroke.phrase)
            assert math.dist(there.centroid, stroke.centre) >= AWAY - 0.02
            assert not hit(found, stroke.phrase, draw(stroke))


def test_perfect_placement_hits_and_is_oriented() -> None:
    rng = np.random.default_rng(1)
    errors = []
    for prompt in two_object_prompts(5, 60):
        scene = random_scene(rng, list(prompt.kinds))
        strokes = [stroke_of(rng, thing) for thing in scene.things]
        found = read(render(scene)[0])
        assert presence(found, prompt.phrases) == 1
        for stroke in strokes:
            assert hit(found, stroke.phrase, draw(stroke))
            error = orientation_error(found, stroke)
            assert (error is None) == ("bar" not in stroke.phrase)
            errors += [] if error is None else [error]
    assert max(errors) < 3


def test_wrong_place_colour_or_shape_never_hits() -> None:
    scene = Scene((Thing("circle", "red", 0.3, 0.3, 0.15), Thing("circle", "blue", 0.7, 0.7, 0.15)), "gray")
    found = read(render(scene)[0])
    rng = np.random.default_rng(0)
    on_red, on_blue = (draw(stroke_of(rng, thing)) for thing in scene.things)
    assert hit(found, "red circle", on_red) and hit(found, "blue circle", on_blue)
    assert not hit(found, "red circle", on_blue)  # swapped
    assert not hit(found, "red square", on_red)
    assert not hit(found, "green circle", on_red)
    assert not hit([], "red circle", on_red)


def test_an_object_near_its_stroke_must_also_cover_half_of_it() -> None:
    found = read(render(Scene((Thing("bar", "red", 0.5, 0.5, 0.24, 0.12, 0.0),), "gray"))[0])
    along, across = (
        draw(stroke_of(np.random.default_rng(0), Thing("bar", "red", 0.5, 0.5, 0.24, 0.12, angle)))
        for angle in (0.0, math.pi / 2)
    )
    assert hit(found, "red bar", along)
    assert not hit(found, "red bar", across)


@pytest.mark.parametrize("turn", [0, 30, 90, 150])
def test_orientation_error_is_mod_pi(turn: int) -> None:
    base = 0.2
    found = read(render(Scene((Thing("bar", "red", 0.5, 0.5, 0.24, 0.12, base),), "gray"))[0])
    angle = (base + math.radians(turn)) % math.pi
    stroke = stroke_of(np.random.default_rng(0), Thing("bar", "red", 0.5, 0.5, 0.24, 0.12, angle))
    assert orientation_error(found, stroke) == pytest.approx(min(turn, 180 - turn), abs=1.5)


def test_document_has_one_highlight_a_phrase() -> None:
    strokes = strokes_for(0, 0, Prompt((("circle", "red"), ("bar", "blue")), "gray"))
    made = document(strokes)
    assert made["version"] == 1
    assert [entry["phrase"] for entry in made["highlights"]] == ["red circle", "blue bar"]
    assert made["highlights"][0]["instances"][0]["shapes"][0]["type"] == "stroke"
