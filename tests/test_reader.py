"""The scene reader on rendered scenes, whose objects are known exactly."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from limelight.guidance.regions.geometry import angle_between
from limelight.shapeworld.reader import object_of, presence, read
from limelight.shapeworld.scenes import COLOURS, Scene, Thing, random_scene, render

SCENES = 300


def degrade(image: np.ndarray, rng: np.random.Generator, blur: float, noise: float) -> np.ndarray:
    """Soft edges and noise, as a small autoencoder leaves them."""
    soft = cv2.GaussianBlur(image, (0, 0), blur).astype(np.float32) if blur else image.astype(np.float32)
    return np.clip(soft + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("blur", "noise"), [(0, 0), (1.0, 6), (1.5, 10)])
def test_reads_98_percent_of_rendered_objects(blur: float, noise: float) -> None:
    rng = np.random.default_rng(7)
    total, right, invented = 0, 0, 0
    for _ in range(SCENES):
        scene = random_scene(rng)
        found = read(degrade(render(scene, rng=rng)[0], rng, blur, noise))
        invented += max(0, len(found) - len(scene.things))
        for thing in scene.things:
            total += 1
            seen = object_of(found, thing.phrase)
            if seen is not None and math.dist(seen.centroid, (thing.x, thing.y)) <= 0.02:
                right += thing.shape != "bar" or angle_between(seen.orientation, thing.angle) <= 3
    assert right / total >= 0.98
    assert invented / total <= 0.01


def test_masks_match_the_drawn_ones() -> None:
    scene = random_scene(np.random.default_rng(3), [("circle", "red"), ("bar", "blue")])
    image, masks = render(scene)
    found = read(image)
    for thing, mask in zip(scene.things, masks, strict=True):
        seen, drawn = object_of(found, thing.phrase), mask >= 0.5
        assert seen.mask.dtype == bool and seen.mask.shape == drawn.shape
        assert (seen.mask & drawn).sum() / (seen.mask | drawn).sum() >= 0.93
        assert seen.area == pytest.approx(drawn.mean(), rel=0.07)


def test_touching_objects_of_different_colours_are_two() -> None:
    colours = list(COLOURS)
    for first in colours:
        for second in colours:
            if first == second:
                continue
            things = (Thing("square", first, 0.35, 0.5, 0.15), Thing("circle", second, 0.65, 0.5, 0.15))
            image = degrade(render(Scene(things, "gray"))[0], np.random.default_rng(0), 1.0, 6)
            assert {thing.phrase for thing in read(image)} == {thing.phrase for thing in things}


def test_nearly_touching_objects_of_one_colour_are_two() -> None:
    things = (Thing("circle", "green", 0.31, 0.5, 0.15), Thing("circle", "green", 0.63, 0.5, 0.15))
    image = degrade(render(Scene(things, "black"))[0], np.random.default_rng(0), 1.0, 6)
    assert [thing.phrase for thing in read(image)] == ["green circle"] * 2


@pytest.mark.parametrize("side", [64, 128, 256])
def test_other_sizes_and_non_square_images(side: int) -> None:
    scene = Scene((Thing("circle", "yellow", 0.3, 0.4, 0.15), Thing("bar", "red", 0.7, 0.6, 0.22, 0.12, 2.0)), "white")
    image, _ = render(scene, side)
    assert {thing.phrase for thing in read(image)} == {"yellow circle", "red bar"}
    wide = np.concatenate([image, np.full_like(image, 235)], 1)
    seen = object_of(read(wide), "yellow circle")
    assert seen.centroid == pytest.approx((0.15, 0.4), abs=0.01)


def test_nothing_is_found_on_backgrounds_and_noise() -> None:
    rng = np.random.default_rng(0)
    for level in (25, 128, 235):
        flat = np.clip(level + rng.normal(0, 12, (128, 128, 3)), 0, 255).astype(np.uint8)
        assert read(flat) == []


def test_a_shapeless_blob_is_not_present() -> None:
    blob = np.zeros((128, 128), np.uint8)
    cv2.line(blob, (24, 24), (100, 100), 1, 14)
    cv2.line(blob, (24, 100), (100, 24), 1, 14)
    image = np.where(blob[..., None] > 0, COLOURS["red"], (128, 128, 128)).astype(np.uint8)
    assert len(read(image)) == 1
    assert presence(read(image), ["red circle", "red square", "red bar"]) == 0


def test_presence_uses_every_object_once() -> None:
    image, _ = render(Scene((Thing("circle", "red", 0.3, 0.3, 0.15), Thing("square", "blue", 0.7, 0.7, 0.15)), "gray"))
    found = read(image)
    assert presence(found, ["red circle", "blue square"]) == 1
    assert presence(found, ["red circle", "red circle"]) == 0.5
    assert presence(found, ["red square", "blue circle"]) == 0
    assert presence([], ["red circle"]) == 0


def test_axes_have_no_direction() -> None:
    assert angle_between(0.05, math.pi - 0.05) == pytest.approx(math.degrees(0.1))
    assert angle_between(0, math.pi / 2) == pytest.approx(90)
    assert angle_between(0.3, 0.3 + math.pi) == pytest.approx(0, abs=1e-9)


def test_refuses_what_is_not_an_image() -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        read(np.zeros((8, 8, 3), np.float32))
