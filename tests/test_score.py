"""Scores of masks whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from limelight.guidance.attention.score import iou, score, summary, table
from limelight.guidance.regions.document import parse
from limelight.guidance.regions.raster import coverage

SIDE = 128
BAR = (0.2, 0.4, 0.8, 0.6)


def highlight(*boxes: tuple[float, float, float, float], phrase: str = "blue bar"):
    instances = [{"shapes": [{"type": "box", "box": list(box)}]} for box in boxes]
    return parse({"version": 1, "highlights": [{"phrase": phrase, "instances": instances}]}).highlights[0]


def stroke(angle: float, length: float = 0.6, width: float = 0.1):
    """A stroke through the middle of the canvas. angle in degrees, clockwise from the right."""
    dx, dy = math.cos(math.radians(angle)) * length / 2, math.sin(math.radians(angle)) * length / 2
    shape = {"type": "stroke", "points": [[0.5 - dx, 0.5 - dy], [0.5 + dx, 0.5 + dy]], "width": width}
    document = {"version": 1, "highlights": [{"phrase": "bar", "instances": [{"shapes": [shape]}]}]}
    return parse(document).highlights[0]


def mask_of(one, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return coverage([shape for instance in one.instances for shape in instance.shapes], height, width)


@pytest.mark.parametrize("size", [(SIDE, SIDE), (96, 160), (51, 33)])
def test_an_object_that_is_its_highlight(size):
    one = stroke(30)
    found = score(one, mask_of(one, *size))
    assert found.iou == found.coverage == 1
    assert found.centroid_error == found.orientation_error == 0
    assert (found.objects, found.objects_covered) == (1, 1)


def test_shifted_by_half_its_length():
    found = score(highlight(BAR), mask_of(highlight((0.5, 0.4, 1.0, 0.6))))
    # 0.3 of 0.6 in common; the union is 0.8 long
    assert found.iou == pytest.approx(0.3 / 0.8, abs=0.01)
    assert found.coverage == pytest.approx(0.5, abs=0.01)
    assert found.centroid_error == pytest.approx(0.25, abs=0.005)
    assert found.orientation_error == pytest.approx(0, abs=0.1)


def test_distances_are_shares_of_the_short_side():
    wide = score(highlight((0.1, 0.2, 0.3, 0.8)), mask_of(highlight((0.6, 0.2, 0.8, 0.8)), 64, 128))
    assert wide.centroid_error == pytest.approx(0.5 * 2, abs=0.01)
    high = score(highlight((0.1, 0.2, 0.3, 0.8)), mask_of(highlight((0.6, 0.2, 0.8, 0.8)), 128, 64))
    assert high.centroid_error == pytest.approx(0.5, abs=0.01)


def test_a_larger_object_covers_its_stroke_but_overlaps_less():
    found = score(highlight((0.4, 0.4, 0.6, 0.6)), np.ones((SIDE, SIDE), np.float32))
    assert found.coverage == 1
    assert found.iou == pytest.approx(0.04, abs=0.002)
    assert found.centroid_error == pytest.approx(0, abs=1e-6)
    assert found.orientation_error is None  # neither a square nor a full canvas points anywhere


@pytest.mark.parametrize("turn", [0, 30, 89, 90, 91, 150, 179])
@pytest.mark.parametrize("base", [0, 10, 175])
def test_turned_objects_wrap_at_half_a_turn(base, turn):
    found = score(stroke(base), mask_of(stroke(base + turn)))
    assert found.orientation_error == pytest.approx(min(turn, 180 - turn), abs=1)
    assert found.centroid_error < 0.01


def test_orientation_is_that_of_the_picture_not_of_the_grid():
    """On a wide image a stroke along the diagonal of the coordinates is flatter than 45 degrees."""
    diagonal = {"type": "stroke", "points": [[0.1, 0.1], [0.9, 0.9]], "width": 0.1}
    document = {"version": 1, "highlights": [{"phrase": "bar", "instances": [{"shapes": [diagonal]}]}]}
    (one,) = parse(document).highlights
    flat = np.zeros((64, 128), np.float32)
    flat[30:34, 10:118] = 1
    assert score(one, flat).orientation_error == pytest.approx(math.degrees(math.atan2(64, 128)), abs=1)


def test_a_missing_object_counts_as_zero():
    found = score(highlight(BAR), np.zeros((SIDE, SIDE), np.float32))
    assert (found.iou, found.coverage, found.objects_covered) == (0, 0, 0)
    assert found.centroid_error is None and found.orientation_error is None
    there = score(highlight(BAR), mask_of(highlight(BAR)))
    means = summary([there, found])
    assert means["mean_iou"] == means["mean_stroke_coverage"] == pytest.approx(0.5)
    assert means["mean_centroid_error"] == means["mean_orientation_error_deg"] == 0
    assert summary([found])["mean_centroid_error"] is None
    assert iou(np.zeros((3, 3)), np.zeros((3, 3))) == 0


def test_several_objects_of_a_phrase():
    pair = highlight((0.1, 0.1, 0.4, 0.3), (0.6, 0.7, 0.9, 0.9))
    one = score(pair, mask_of(highlight((0.1, 0.1, 0.4, 0.3))))
    assert (one.objects, one.objects_covered) == (2, 1)
    assert one.iou == one.coverage == pytest.approx(0.5, abs=0.01)
    both = score(pair, mask_of(pair))
    assert (both.objects, both.objects_covered, both.iou) == (2, 2, 1)
    assert both.orientation_error is None  # two objects have no common direction


def test_soft_masks_count_by_their_share():
    one = highlight((0.25, 0.25, 0.75, 0.75))
    found = score(one, 0.5 * mask_of(one))
    assert found.iou == found.coverage == pytest.approx(0.5)


def test_table_and_json_say_what_is_not_there():
    missing = score(highlight(BAR, phrase="gray cat"), np.zeros((SIDE, SIDE), np.float32))
    there = score(highlight(BAR), mask_of(highlight(BAR)))
    lines = table([there, missing]).splitlines()
    assert [line.split()[0] for line in lines] == ["highlight", "blue", "gray", "mean"]
    assert lines[1].split()[2:] == ["1.00", "1.00", "0.000", "0", "deg", "1/1"]
    assert lines[2].split()[2:] == ["0.00", "0.00", "-", "-", "0/1"]
    assert lines[3].split()[1:] == ["0.50", "0.50", "0.000", "0", "deg", "1/2"]
    assert len({len(line) for line in lines}) == 1
    assert missing.to_dict() == {
        "phrase": "gray cat",
        "iou": 0.0,
        "stroke_coverage": 0.0,
        "centroid_error": None,
        "orientation_error_deg": None,
        "objects": 1,
        "objects_covered": 0,
    }
