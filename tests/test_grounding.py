"""Boxes for GLIGEN: of shapes, as an area sees them, with what has grown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from limelight.guidance.attention.grounding import Grounded, Grounding
from limelight.guidance.regions import maskpng
from limelight.guidance.regions.document import parse_instances


def grounded(*shapes):
    (instance,) = parse_instances([{"shapes": list(shapes)}])
    return Grounded.of("phrase", torch.zeros(1, 64), instance)


def png(rows, columns, height=20, width=40):
    mask = np.zeros((height, width), np.float32)
    mask[rows, columns] = 1
    mask[0, 0] = 0.3  # below half of the peak
    return {"type": "mask", "png": maskpng.encode(mask)}


STROKE = {"type": "stroke", "points": [[0.3, 0.4], [0.5, 0.8]], "width": 0.1}


@pytest.mark.parametrize(
    ("shapes", "latent", "expected"),
    [
        ([{"type": "box", "box": [0.2, 0.3, 0.4, 0.6]}], (64, 64), (0.2, 0.3, 0.4, 0.6)),
        ([{"type": "box", "box": [-0.2, 0.3, 0.4, 1.6]}], (64, 64), (0.0, 0.3, 0.4, 1.0)),
        ([STROKE], (64, 64), (0.25, 0.35, 0.55, 0.85)),
        ([STROKE], (64, 128), (0.275, 0.35, 0.525, 0.85)),
        ([STROKE], (128, 64), (0.25, 0.375, 0.55, 0.825)),
        ([{"type": "polygon", "points": [[0.1, 0.9], [0.5, 0.2], [0.7, 0.8]]}], (9, 7), (0.1, 0.2, 0.7, 0.9)),
        ([png(slice(5, 10), slice(10, 30))], (64, 64), (0.25, 0.25, 0.75, 0.5)),
        ([STROKE, {"type": "box", "box": [0.0, 0.5, 0.1, 0.6]}], (64, 64), (0.0, 0.35, 0.55, 0.85)),
    ],
)
def test_boxes_of_objects(shapes, latent, expected):
    item = grounded(*shapes)
    assert item.box(latent, 0.0) == pytest.approx(expected)
    x0, y0, x1, y1 = expected
    wide = (max(x0 - 0.05, 0), max(y0 - 0.05, 0), min(x1 + 0.05, 1), min(y1 + 0.05, 1))
    assert item.box(latent, 0.05) == pytest.approx(wide)


def test_boxes_as_an_area_sees_them():
    item = grounded({"type": "box", "box": [0.25, 0.25, 0.5, 0.75]})
    latent = (32, 64)
    assert item.box(latent, 0.0, (32, 64, 0, 0)) == item.box(latent, 0.0)
    assert item.box(latent, 0.0, (32, 32, 0, 0)) == pytest.approx((0.5, 0.25, 1.0, 0.75))
    assert item.box(latent, 0.0, (16, 32, 16, 8)) == pytest.approx((0.25, 0.0, 0.75, 0.5))
    assert item.box(latent, 0.25, (32, 32, 0, 32)) is None  # its margin alone reaches in
    assert item.box(latent, 0.25, (32, 16, 0, 16)) == pytest.approx((0.0, 0.0, 1.0, 1.0))


def test_boxes_follow_grown_regions():
    """A cell that has joined belongs to the nearest object of its highlight; each sample has a box of its own."""
    left = replace(grounded({"type": "box", "box": [0.1, 0.4, 0.3, 0.6]}), index=2)
    right = replace(grounded({"type": "box", "box": [0.7, 0.4, 0.9, 0.6]}), index=2)
    other = replace(grounded({"type": "box", "box": [0.4, 0.4, 0.5, 0.6]}), index=0)
    regions = {2: torch.zeros(3, 10, 20)}
    regions[2][0, 2, 7] = 1  # nearest to the left one
    regions[2][1, 7:9, 12] = 0.6  # to the right one
    regions[2][2, 0, 0] = 0.4  # not yet
    grounding = Grounding([left, other, right], margin=0.05, regions=regions)
    boxes = [[tuple(round(edge, 4) for edge in box) for box in boxes] for _, boxes in grounding.slots((20, 40))]
    at_left, at_right = (0.05, 0.35, 0.35, 0.65), (0.65, 0.35, 0.95, 0.65)
    assert boxes == [
        [(0.05, 0.2, 0.4, 0.65), at_left, at_left],
        [(0.35, 0.35, 0.55, 0.65)],
        [at_right, (0.6, 0.35, 0.95, 0.9), at_right],
    ]


def test_settings_stay_when_the_stock_node_adds_boxes():
    first = Grounding([grounded(STROKE)], 0.5, (0.1, 0.4), True, 0.2)
    second = first + [(torch.zeros(1, 64), 4, 4, 0, 2)]
    assert (len(first), len(second)) == (1, 2)
    assert (second.strength, second.window, second.parallel, second.margin) == (0.5, (0.1, 0.4), True, 0.2)
    assert second.slots((8, 8))[1][1] == [(0.25, 0.0, 0.75, 0.5)]


def test_the_window_is_in_percent_of_the_schedule(tiny_sd15):
    sampling = tiny_sd15.model.model_sampling
    early = Grounding(window=(0.0, 0.3))
    edge = float(sampling.percent_to_sigma(0.3))
    assert early.is_on(float(sampling.sigma_max), sampling) and early.is_on(edge, sampling)
    assert not early.is_on(edge * 0.999, sampling)
    late = Grounding(window=(0.3, 1.0))
    assert not late.is_on(edge * 1.001, sampling) and late.is_on(0.0, sampling)
