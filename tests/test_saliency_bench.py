"""What the saliency table measures, on scenes and maps whose truth is known; and one prompt, in little."""

from __future__ import annotations

import numpy as np
import pytest

from limelight.bench import saliency as bench
from limelight.bench.prompts import Prompt
from limelight.shapeworld.scenes import Scene, Thing, render

PROMPT = Prompt((("circle", "red"), ("square", "blue")), "gray")


def scene(x: float, y: float) -> np.ndarray:
    """A red circle at the place, a blue square at the lower left, and a yellow circle that nobody asked for."""
    things = [("circle", "red", x, y), ("square", "blue", 0.2, 0.8), ("circle", "yellow", 0.8, 0.85)]
    return render(Scene(tuple(Thing(*thing[:4], 0.13) for thing in things), "gray"))[0]


def test_spots_are_fixed_and_soft():
    spot = bench.spot(0, 3)
    assert np.array_equal(spot, bench.spot(0, 3)) and not np.array_equal(spot, bench.spot(0, 4))
    row, column = np.unravel_index(spot.argmax(), spot.shape)
    assert all(0.2 * bench.SIDE <= place <= 0.8 * bench.SIDE for place in (row, column)) and spot.max() > 0.99
    assert (spot >= 0.5).mean() == pytest.approx(np.pi * 2 * np.log(2) * bench.SIGMA**2, rel=0.05)


def test_scores_of_one_image():
    """The target's own map against it, on an image with the circle there; and on one with the circle elsewhere."""
    target = bench.gaussians(
        bench.parse_blobs({"version": 1, "blobs": [{"x": 0.6, "y": 0.4, "sx": 0.12, "sy": 0.12}]}),
        bench.SIDE,
        bench.SIDE,
    )
    there = bench.score(scene(0.6, 0.4), target, PROMPT, target, [target.T])
    assert there["cc"] == pytest.approx(1) and there["attention_share"] == pytest.approx(0.5, abs=0.02)
    assert (there["presence"], there["object_on_target"], there["others"]) == (1.0, 1.0, 1.0)
    assert there["shuffled_cc"] < there["cc"] and there["shuffled_share"] < there["attention_share"]
    flat = bench.score(scene(0.3, 0.25), np.ones_like(target), PROMPT, target, [target.T])
    assert flat["object_on_target"] == 0 and flat["cc"] == 0
    assert flat["attention_share"] == pytest.approx((target >= 0.5).mean())


def test_the_rows_are_means_over_prompts():
    metrics = dict.fromkeys(bench.METRICS, 0.0)
    found = []
    for share in (0.1, 0.3):
        one = {}
        for suffix in bench.DIRECTIONS:
            for row in bench.ROWS:
                value = share * (2 if "guidance" in row else 1)
                one[row + suffix] = metrics | {"attention_share": value, "seconds": 3.0, "plain": 1.5}
        found.append(one)
    rows = {row["row"]: row for row in bench.summaries(found, 0)}
    assert list(rows) == [row + suffix for suffix in bench.DIRECTIONS for row in bench.ROWS] + ["centre-bias"]
    assert rows["unguided"]["attention_share"] == pytest.approx(0.2) and rows["guidance"]["gain"] == pytest.approx(2)
    assert rows["guidance"]["overhead"] == 2 and rows["guidance"]["judge"] != rows["guidance-swapped"]["judge"]
    assert rows["guidance"]["guide"] != rows["guidance"]["judge"]
    assert 0 < rows["centre-bias"]["attention_share"] < 0.2 and rows["centre-bias"]["cc"] > 0


def test_one_prompt_in_little(host, monkeypatch, tmp_path):
    from limelight.bench import sampling

    monkeypatch.setattr(sampling, "STEPS", 3)
    monkeypatch.setattr(bench, "IMAGES", 2)
    world = sampling.load_world()
    found = bench.prompt_scores(world, bench.predictors(), 0, PROMPT, 0, images=tmp_path)
    assert set(found) == {row + suffix for suffix in bench.DIRECTIONS for row in bench.ROWS}
    assert all(set(one) == {*bench.METRICS, "seconds", "plain"} for one in found.values())
    assert found["unguided"]["presence"] == found["unguided-swapped"]["presence"]
    assert found["guidance"] != found["guidance-swapped"] and found["controlnet"] != found["unguided"]
    assert (tmp_path / "0000.png").is_file()


def test_drawn_scenes_earn_more_than_those_with_both_objects_elsewhere(host):
    rows = bench.drawn([PROMPT, PROMPT], bench.predictors(), 0)
    assert [row["row"] for row in rows] == ["drawn", "drawn-swapped"]
    area = np.mean([(bench.spot(0, index) >= 0.5).mean() for index in range(2)])
    assert all(row["attention_share"] > 2 * area and row["cc"] > 0.3 for row in rows)
