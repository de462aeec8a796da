"""Regions on grids: exact at every level, whatever the sizes; feather, halo, cut-outs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limelight.guidance.local.coverage import cells, coverage, feathered, surroundings
from limelight.guidance.local.view import cuts, pixels

STRIDES = (8, 16, 32, 64)


def brute_force(mask: np.ndarray, stride: int) -> np.ndarray:
    """Means over cells, one by one; the last ones are cut off at the border."""
    height, width = mask.shape
    rows, columns = -(-height // stride), -(-width // stride)
    means = [
        mask[i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].mean(dtype=np.float64)
        for i in range(rows)
        for j in range(columns)
    ]
    return np.array(means).reshape(rows, columns)


def stroke(generator: np.random.Generator, height: int, width: int, wide: int) -> np.ndarray:
    import cv2

    points = (generator.random((4, 2)) * (width, height)).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    cv2.polylines(mask, [points], False, 255, wide, cv2.LINE_AA)
    return mask.astype(np.float32) / 255


def drawn(generator: np.random.Generator, height: int, width: int, number: int) -> np.ndarray:
    if number % 2:
        return stroke(generator, height, width, int(generator.integers(1, 40)))
    mask = np.zeros((height, width), np.float32)
    (top, bottom), (left, right) = (np.sort(generator.integers(0, side + 1, 2)) for side in (height, width))
    mask[top : bottom + 1, left : right + 1] = generator.random()
    return mask


def test_exact_on_boxes_and_strokes():
    """2000 of them, on sizes that divide evenly and on odd ones."""
    generator = np.random.default_rng(0)
    worst = 0.0
    for height, width in ((128, 128), (128, 192), (136, 104), (200, 72)):
        masks = np.stack([drawn(generator, height, width, i) for i in range(500)])
        for stride in STRIDES:
            axes = [cells(stride, side) for side in (height, width)]
            found = coverage(torch.from_numpy(masks), *axes).numpy()
            wanted = np.stack([brute_force(mask, stride) for mask in masks])
            assert found.shape == wanted.shape
            worst = max(worst, np.abs(found - wanted).max())
    assert worst < 1e-6


@pytest.mark.parametrize("size", [(512, 512), (1024, 1024), (256, 256), (768, 512)])
def test_masks_of_other_sizes(size):
    """A mask need not have the image's size: the box is the same share of it."""
    height, width = size
    mask = torch.zeros(1, height, width)
    mask[:, height // 4 : height // 2, width // 4 : width // 2] = 1
    wanted = torch.zeros(512, 512)
    wanted[128:256, 128:256] = 1
    for stride in STRIDES:
        axes = [pixels((0, 64), 64, side, 0, stride, 8, 8) for side in size]
        assert np.abs(coverage(mask, *axes)[0].numpy() - brute_force(wanted.numpy(), stride)).max() < 1e-6


def test_thin_strokes_stay():
    """16 pixels wide, wherever they are, at the coarsest level of a 512 image."""
    for at in range(0, 496, 7):
        mask = torch.zeros(1, 512, 512)
        mask[:, :, at : at + 16] = 1
        found = coverage(mask, cells(64, 512), cells(64, 512))
        assert found.sum(2).min() == pytest.approx(16 / 64, abs=1e-6)


def test_extremes_are_exact():
    for side in (64, 65, 520, 1000):
        axes = [pixels((0, 65), 65, side, 0, 16, 8, 16)] * 2
        assert (coverage(torch.ones(1, side, side), *axes) == 1).all()
        assert (coverage(torch.zeros(1, side, side), *axes) == 0).all()


def test_cut_outs_are_those_of_the_whole():
    """The cells of a part of the image are the same as those cells of the whole."""
    mask = torch.rand(1, 512, 768)
    whole = coverage(mask, pixels((0, 64), 64, 512, 0, 16, 8, 8), pixels((0, 96), 96, 768, 0, 16, 8, 8))
    part = coverage(mask, pixels((16, 32), 64, 512, 0, 16, 8, 8), pixels((48, 48), 96, 768, 0, 16, 8, 8))
    assert torch.equal(part, whole[:, 8:24, 24:48])


@pytest.mark.parametrize("source", [(64, 64), (64, 96), (100, 60), (37, 91)])
@pytest.mark.parametrize("wanted", [(128, 128), (128, 192), (136, 88)])
def test_cuts_are_the_hosts(host, source, wanted):
    from comfy.utils import common_upscale

    ramp = torch.arange(source[0] * source[1], dtype=torch.float32).reshape(1, 1, *source)
    rows, columns = cuts(source, wanted)
    kept = ramp[:, :, rows : source[0] - rows, columns : source[1] - columns]
    cut = torch.nn.functional.interpolate(kept, wanted, mode="nearest-exact")
    assert torch.equal(cut, common_upscale(ramp, wanted[1], wanted[0], "nearest-exact", "center"))


def test_feather():
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :40] = 1  # touches three borders, which are no edges
    soft = feathered(mask, 16)
    assert (soft <= mask).all() and (soft[:, :, 40:] == 0).all()
    assert (soft[:, :, :23] == 1).all()
    ramp = soft[0, 32, 23:40]
    assert (ramp.diff() < 0).all() and ramp[-1] == pytest.approx(0.5 / 16)
    assert torch.equal(feathered(mask, 0), mask)
    assert torch.equal(feathered(torch.ones(1, 8, 8), 4), torch.ones(1, 8, 8))
    assert torch.equal(feathered(torch.zeros(1, 8, 8), 4), torch.zeros(1, 8, 8))


def test_surroundings():
    mask = torch.zeros(1, 8, 200)
    mask[:, :, :20] = 0.3
    keep = surroundings(mask, 40)[0, 4]
    assert (keep[:60] == 1).all() and (keep[80:] == 0).all()
    assert (keep[60:80].diff() < 0).all()
    assert (surroundings(torch.zeros(1, 8, 8), 4) == 0).all() and (surroundings(torch.ones(1, 8, 8), 4) == 1).all()
