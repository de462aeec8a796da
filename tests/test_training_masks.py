"""The regions that local control is trained on: sizes, places, the published sampler's figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limelight.training import masks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_published_boxes_have_the_published_distribution():
    rng = generator()
    drawn = torch.stack([masks.published_box(rng, 512, 512)[::16, ::16] for _ in range(1500)])
    exact = [float(masks.published_box(rng, 512, 512).mean()) for _ in range(500)]
    coverage = np.concatenate([drawn.mean((1, 2)).numpy(), exact])
    # 4 million draws of the formula: mean 13.48 %, median 9.74, a tenth below 4.59, a tenth above 27.73
    assert coverage.mean() == pytest.approx(0.1348, abs=0.008)
    assert np.quantile(coverage, [0.1, 0.5, 0.9]) == pytest.approx([0.0459, 0.0974, 0.2773], abs=0.02)
    assert min(exact) >= 10_000 / 512**2
    inside = drawn.mean(0)
    assert float(inside[16, 16]) == pytest.approx(0.277, abs=0.04)
    assert inside[0, 16] < 0.02 and inside[0, 0] < 0.01


def test_published_boxes_never_reach_the_last_row_and_column():
    rng = generator(1)
    drawn = torch.stack([masks.published_box(rng, 24, 40) for _ in range(300)])
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert not drawn[:, -1].any() and not drawn[:, :, -1].any()
    for mask in drawn[:20]:  # each is one box
        rows, columns = mask.amax(1), mask.amax(0)
        assert torch.equal(mask, rows[:, None] * columns)


@pytest.mark.parametrize("shape", masks.SHAPES)
def test_areas_of_every_shape_are_log_uniform(shape, monkeypatch):
    monkeypatch.setattr(masks, "SOFT", 0.0)
    rng = generator()
    areas = np.log([float(masks.draw(rng, 128, 160, shape=shape).mean()) for _ in range(300)])
    low, high = math.log(masks.LEAST), math.log(masks.MOST)
    expected = low + (high - low) * np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    assert np.quantile(areas, [0.1, 0.25, 0.5, 0.75, 0.9]) == pytest.approx(expected, abs=0.3)
    assert areas.min() > low - 0.05 and areas.max() < high + 0.05


def test_the_curriculum_has_all_nothing_borders_and_soft_edges():
    rng = generator()
    drawn = torch.stack([masks.draw(rng, 48, 64) for _ in range(1500)])
    coverage = drawn.mean((1, 2))
    assert float((coverage == 1).float().mean()) == pytest.approx(masks.FULL, abs=0.025)
    assert float((coverage == 0).float().mean()) == pytest.approx(masks.EMPTY, abs=0.02)
    between = ((drawn > 0.05) & (drawn < 0.95)).any(2).any(1)
    assert float(between.float().mean()) == pytest.approx(masks.SOFT * (1 - masks.FULL - masks.EMPTY), abs=0.04)
    middle, edge, corner = (float(drawn[:, y, x].mean()) for y, x in ((24, 32), (0, 32), (0, 0)))
    assert min(edge, corner) > 0.5 * middle  # the published sampler: 0.5 % of it
    assert 0 <= float(drawn.min()) and float(drawn.max()) <= 1


def test_regions_depend_on_the_generator_alone():
    state = torch.get_rng_state()
    first = [masks.draw(generator(n), 40, 40) for n in range(12)]
    torch.rand(3)
    assert all(torch.equal(masks.draw(generator(n), 40, 40), mask) for n, mask in enumerate(first))
    assert len({tuple(mask.flatten().tolist()) for mask in first}) > 9
    torch.set_rng_state(state)


def test_a_samples_own_mask_is_used_now_and_then(monkeypatch):
    monkeypatch.setattr(masks, "SOFT", 0.0)
    own = torch.zeros(80, 120)
    own[20:60, 30:90] = 1
    small = torch.nn.functional.avg_pool2d(own[None], 2)[0]
    rng = generator()
    same = [torch.allclose(masks.draw(rng, 40, 60, own), small, atol=0.51) for _ in range(400)]
    assert np.mean(same) == pytest.approx(masks.OWN * (1 - masks.FULL - masks.EMPTY), abs=0.06)
    empty = [masks.draw(rng, 40, 60, torch.zeros(80, 120)).any() for _ in range(100)]
    assert np.mean(empty) > 0.85  # an empty one is not taken


@pytest.mark.parametrize("shape", masks.SHAPES)
def test_shapes_are_in_one_piece_and_not_all_alike(shape):
    import cv2

    rng = generator(3)
    drawn = [masks.draw(rng, 64, 64, shape=shape) for _ in range(20)]
    pieces = [cv2.connectedComponents((mask > 0.5).numpy().astype(np.uint8))[0] - 1 for mask in drawn]
    assert max(pieces) <= (3 if shape == "strokes" else 1)
    assert len({float(mask.mean()) for mask in drawn}) > 15
