"""The three zones of each highlight on a grid, and the moments of maps."""

from __future__ import annotations

import math

import pytest
import torch

from limelight.guidance.errors import LimelightError
from limelight.guidance.regions.targets import BAND, build_targets, moments


def stroke(*points, width=0.06) -> dict:
    return {"shapes": [{"type": "stroke", "points": [list(point) for point in points], "width": width}]}


def box(*corners) -> dict:
    return {"shapes": [{"type": "box", "box": list(corners)}]}


def bound(*instance_lists, strength=1.0) -> dict:
    highlights = [
        {"phrase": f"thing {i}", "tokens": [2 * i + 1, 2 * i + 2], "strength": strength, "instances": list(instances)}
        for i, instances in enumerate(instance_lists)
    ]
    return {"version": 1, "text_tokens": list(range(1, 9)), "highlights": highlights}


TWO = bound([stroke((0.2, 0.3), (0.7, 0.3))], [stroke((0.4, 0.4), (0.4, 0.9), width=0.02), box(0.6, 0.6, 0.9, 0.9)])


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (8, 8), (13, 7), (16, 24), (64, 64)])
def test_zones_add_up(grid):
    targets = build_targets(TWO, *grid)
    assert [target.tokens for target in targets] == [(1, 2), (3, 4)]
    assert [len(target.instances) for target in targets] == [1, 2]
    for target in targets:
        zones = torch.stack([target.attract, target.neutral, target.suppress])
        assert zones.shape == (3, *grid) and zones.dtype == torch.float32
        assert zones.min() >= 0 and torch.allclose(zones.sum(0), torch.ones(grid), atol=1e-6)
        assert target.attract.max() == 1
        assert target.instances.shape[1:] == grid and (target.instances.amax((1, 2)) > 0).all()


@pytest.mark.parametrize("width", [0.002, 0.01, 0.06])
def test_thin_strokes_survive_on_8x8(width):
    (target,) = build_targets(bound([stroke((0.1, 0.55), (0.9, 0.55), width=width)]), 8, 8)
    assert (target.attract[4, 1:7] > 0.95).all()
    assert target.attract[2].max() == 0 and target.suppress[4, 1:7].max() < 0.05
    assert target.suppress[:2].min() == 1
    assert target.instances[0, 4, 3] == pytest.approx(8 * width, rel=0.3)


def test_a_thin_instance_counts_as_much_as_a_thick_one():
    instances = [stroke((0.1, 0.2), (0.9, 0.2), width=0.01), box(0.2, 0.6, 0.8, 0.9)]
    (target,) = build_targets(bound(instances), 8, 8)
    assert target.attract[1].max() == 1 and target.attract[6].max() == 1


@pytest.mark.parametrize("looseness", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("grid", [(100, 100), (100, 200)])
def test_width_of_the_band(looseness, grid):
    (target,) = build_targets(bound([stroke((-1, 0.5), (2, 0.5), width=0.2)]), *grid, looseness)
    band = target.neutral[:, 50].sum() / 100 / 2
    assert band == pytest.approx(looseness * (BAND + 0.1), abs=0.004)
    (target,) = build_targets(bound([box(0, 0.4, 1, 0.6)]), *grid, looseness)
    assert target.neutral[:, 50].sum() / 100 / 2 == pytest.approx(looseness * BAND, abs=0.004)


def test_other_highlights_are_suppressed_inside_the_band_but_own_attraction_wins():
    first, second = build_targets(bound([box(0, 0, 0.5, 1)], [box(0.25, 0, 0.53, 1)]), 100, 100)
    assert first.suppress[50, 51] == 1 and second.neutral[50, 54] == 1 and first.neutral[50, 54] == 1
    overlap = slice(26, 49)
    assert (first.attract[:, overlap] == 1).all() and (second.attract[:, overlap] == 1).all()
    alone = build_targets(bound([box(0, 0, 0.5, 1)]), 100, 100)[0]
    assert alone.neutral[50, 51] == 1


def test_strength_zero_is_as_if_it_did_not_exist():
    assert build_targets(bound([box(0, 0, 1, 1)], strength=0), 8, 8) == []
    both = bound([box(0, 0, 0.5, 1)], [box(0.5, 0, 1, 1)])
    both["highlights"][1]["strength"] = 0
    (target,) = build_targets(both, 8, 8)
    assert torch.equal(target.suppress, build_targets(bound([box(0, 0, 0.5, 1)]), 8, 8)[0].suppress)


def test_a_mask_of_the_whole_image_suppresses_nothing():
    (target,) = build_targets(bound([box(0, 0, 1, 1)]), 9, 5)
    assert (target.attract == 1).all() and (target.suppress == 0).all()


def test_bad_arguments():
    with pytest.raises(LimelightError, match="^looseness: found nan"):
        build_targets(TWO, 8, 8, float("nan"))
    unbound = bound([box(0, 0, 1, 1)])
    unbound["highlights"][0]["tokens"] = []
    with pytest.raises(LimelightError, match="no token of the prompt is bound"):
        build_targets(unbound, 8, 8)


@pytest.mark.parametrize("grid", [(24, 24), (24, 40)])
@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_moments_of_a_stroke(grid, degrees):
    """On any aspect: the centre, the true angle on screen, and the variance of a uniform bar."""
    short, (height, width) = min(grid), grid
    dx, dy = (
        math.cos(math.radians(degrees)) * 0.3 * short / width,
        math.sin(math.radians(degrees)) * 0.3 * short / height,
    )
    line = stroke((0.5 - dx, 0.45 - dy), (0.5 + dx, 0.45 + dy), width=0.04)
    (target,) = build_targets(bound([line]), *grid)
    centre, covariance, shape = moments(target.instances[0])
    assert centre.tolist() == pytest.approx([0.5 * width / short, 0.45 * height / short], abs=2e-3)
    assert torch.trace(shape).item() == pytest.approx(1, abs=1e-5)
    angle = math.degrees(0.5 * math.atan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1])) % 180
    assert min(abs(angle - degrees), 180 - abs(angle - degrees)) < 1
    assert torch.linalg.eigvalsh(covariance)[1].item() == pytest.approx(0.64**2 / 12, rel=0.05)


def test_moments_are_finite_with_gradient_for_flat_empty_and_one_cell_maps():
    one = torch.zeros(4, 6)
    one[1, 2] = 1
    maps = torch.stack([torch.ones(4, 6), torch.zeros(4, 6), one]).requires_grad_()
    centre, covariance, shape = moments(maps)
    assert centre[0].tolist() == pytest.approx([0.75, 0.5]) and torch.equal(centre[0], centre[1])
    assert shape[2].tolist() == [[0.5, 0], [0, 0.5]]
    (centre.sum() + covariance.sum() + shape.square().sum()).backward()
    assert torch.isfinite(maps.grad).all()
