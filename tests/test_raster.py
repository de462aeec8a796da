"""Exact coverage: areas against formulas, on square, long and tiny grids."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from limelight.guidance.errors import LimelightError
from limelight.guidance.regions import maskpng, raster
from limelight.guidance.regions.document import Box, Instance, Polygon, Raster, Stroke

GRIDS = [(1, 1), (1, 7), (8, 8), (8, 12), (17, 9), (64, 64), (96, 64)]


def units(height: int, width: int) -> tuple[float, float]:
    """Width and height of the canvas in units of its short side."""
    short = min(height, width)
    return width / short, height / short


def area(cover: np.ndarray) -> float:
    """Covered area in units of the short side squared."""
    across, down = units(*cover.shape)
    return float(cover.mean(dtype=np.float64)) * across * down


@pytest.mark.parametrize("grid", GRIDS)
def test_box_is_exact(grid):
    cover = raster.coverage([Box((0.21, -0.5, 0.68, 0.43))], *grid)
    assert cover.shape == grid and cover.dtype == np.float32
    assert cover.mean() == pytest.approx(0.47 * 0.43, rel=1e-4)


def test_box_covers_the_right_cells():
    cover = raster.coverage([Box((0.25, 0.5, 0.625, 1.0))], 2, 4)
    assert cover == pytest.approx(np.array([[0, 0, 0, 0], [0, 1, 0.5, 0]]), abs=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_polygon_area(grid):
    (ax, ay), (bx, by), (cx, cy) = corners = ((0.13, 0.21), (0.83, 0.37), (0.41, 0.77))
    expected = abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) / 2
    assert raster.coverage([Polygon(corners)], *grid).mean() == pytest.approx(expected, rel=0.01)


def test_polygon_overlapping_itself_is_even_odd():
    twice = ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)) * 2
    assert raster.coverage([Polygon(twice)], 8, 8).mean() < 0.01


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("width", [0.02, 0.06, 0.25])
def test_stroke_is_a_capsule_of_the_same_thickness_at_any_aspect(grid, width):
    across, down = units(*grid)
    dot = raster.coverage([Stroke(((0.5, 0.5),), width)], *grid)
    assert area(dot) == pytest.approx(math.pi * width**2 / 4, rel=0.01)
    line = raster.coverage([Stroke(((0.3, 0.3), (0.7, 0.6)), width)], *grid)
    length = math.hypot(0.4 * across, 0.3 * down)
    assert area(line) == pytest.approx(length * width + math.pi * width**2 / 4, rel=0.005)


def test_a_dot_is_round_on_a_wide_canvas():
    cover = raster.coverage([Stroke(((0.5, 0.5),), 0.5)], 64, 128)
    assert cover.any(0).sum() == pytest.approx(cover.any(1).sum(), abs=2)


def test_stroke_outside_the_canvas_is_cut_off():
    whole = raster.coverage([Stroke(((0.0, 0.5), (1.0, 0.5)), 0.1)], 32, 32)
    longer = raster.coverage([Stroke(((-3.0, 0.5), (9.0, 0.5)), 0.1)], 32, 32)
    assert area(longer) == pytest.approx(0.1, rel=0.01)
    assert longer[:, 4:-4] == pytest.approx(whole[:, 4:-4], abs=1e-6)
    border = raster.coverage([Stroke(((0.0, -1.0), (0.0, 2.0)), 0.1)], 32, 32)
    assert area(border) == pytest.approx(0.05, rel=0.03)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_a_hair_line_along_the_border_is_not_lost(end):
    assert raster.coverage([Stroke(((end, 0.2), (end, 0.8)), 0.001)], 8, 8).any()
    assert raster.coverage([Stroke(((0.2, end), (0.8, end)), 0.001)], 1, 4096).any()


def test_union_counts_an_overlap_once():
    shapes = [Box((0.0, 0.0, 0.61, 1.0)), Box((0.33, 0.0, 0.87, 1.0)), Stroke(((0.1, 0.5), (0.5, 0.5)), 0.1)]
    assert raster.coverage(shapes, 8, 8).mean() == pytest.approx(0.87, rel=1e-4)


def test_one_pixel_mask_covers_everything():
    assert (raster.coverage([Raster(maskpng.encode(np.ones((1, 1))))], 5, 9) == 1).all()


def test_mask_of_another_aspect_is_stretched_and_stays_soft():
    mask = Raster(maskpng.encode(np.array([[0.2, 1.0, 0.0, 0.0]])))
    cover = raster.coverage([mask], 4, 2)
    assert cover == pytest.approx(np.tile([0.6, 0.0], (4, 1)), abs=1e-3)


@pytest.mark.parametrize("target", [(3, 3), (7, 20), (5, 1), (40, 40)])
def test_resample_keeps_the_mean(target):
    image = np.random.default_rng(0).random((11, 13), dtype=np.float32)
    assert raster.resample(image, *target).mean() == pytest.approx(image.mean(), rel=1e-4)


def test_distance_is_measured_from_the_edge():
    inside = np.zeros((21, 31), bool)
    inside[10, 10] = True
    away = raster.distance(inside)
    assert away[10, 10] == 0
    assert away[10, 20] == pytest.approx(9.5)
    assert away[14, 13] == pytest.approx(4.5)


def test_distance_of_instances_in_units_of_the_short_side():
    instances = (Instance((Box((0, 0, 0.25, 1)),)), Instance((Stroke(((0.5, 0.5),), 0.1), Box((0.4, 0.4, 0.6, 0.6)))))
    covers, away, halves, n = raster.coverage_and_distance(instances, 8, 16)
    assert covers.shape == (2, 8, 16) and away.shape == (2, 8 * n, 16 * n)
    assert halves.tolist() == pytest.approx([0, 0.05])
    assert away[0].max() == pytest.approx(1.5, abs=0.01)  # the canvas is 2 wide, the box ends at 0.5


def test_missing_opencv_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(LimelightError, match="pip install opencv-python`.*opencv-python-headless"):
        raster.coverage([Stroke(((0.5, 0.5),))], 8, 8)
    raster.coverage([Box((0, 0, 1, 1))], 8, 8)  # needs none
