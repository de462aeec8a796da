"""Line hints and the scores of local control: against brute force and pictures made for it; their nodes."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from limelight.guidance.errors import LimelightError
from limelight.guidance.local import edges, score


def squares(*boxes, side: int = 64, ground: float = 0.2, ink: float = 0.8) -> np.ndarray:
    """(side, side, 3): boxes (top, left, bottom, right) on a ground."""
    picture = np.full((side, side, 3), ground, np.float32)
    for top, left, bottom, right in boxes:
        picture[top:bottom, left:right] = ink
    return picture


def frame(top: int, left: int, bottom: int, right: int, side: int = 64) -> np.ndarray:
    region = np.zeros((side, side), np.float32)
    region[top:bottom, left:right] = 1
    return region


SQUARE, INSIDE = (16, 16, 40, 40), frame(8, 8, 48, 48)


# Lines ----------------------------------------------------------------------------------------------------------------


def test_canny_finds_outlines_also_between_equally_bright_colours():
    for ground, ink in (((0.2, 0.2, 0.2), (0.8, 0.8, 0.8)), ((0.8, 0.2, 0.2), (0.2, 0.5, 0.2))):
        picture = np.broadcast_to(np.float32(ground), (64, 64, 3)).copy()
        picture[16:40, 16:40] = ink
        lines = edges.canny(picture)
        assert 80 <= lines.sum() <= 110
        rows, columns = np.nonzero(lines)
        assert {rows.min(), columns.min()} <= {15, 16} and {rows.max(), columns.max()} <= {39, 40}
    assert not edges.canny(squares()).any()
    assert edges.canny(squares(SQUARE, ink=0.3)).sum() < edges.canny(squares(SQUARE, ink=0.3), 20, 60).sum()


def test_soft_lines_tell_strong_edges_from_weak_ones():
    picture = squares((8, 8, 24, 24))
    picture[40:56, 40:56] = 0.35
    lines = edges.soft(picture)
    assert lines.shape == (64, 64) and lines.max() == 1 and lines[16, 16] < 0.01
    assert 0.15 < lines[47, 38:43].max() < 0.4
    noise = 0.5 + 0.01 * np.random.default_rng(0).standard_normal((64, 64, 3)).astype(np.float32)
    assert edges.soft(noise).max() < 0.2  # nothing is made of a flat picture's grain


def test_drawings_turn_white_on_black():
    light = squares((20, 20, 22, 50), (20, 20, 50, 22), ground=1.0, ink=0.0)
    assert edges.light_ground(light) and not edges.light_ground(1 - light)
    assert np.array_equal(edges.drawing(light), edges.drawing(1 - light)) and edges.drawing(light)[21, 30] == 1
    photo = np.random.default_rng(0).uniform(size=(64, 64, 3)).astype(np.float32)
    assert edges.is_drawing(light) and edges.is_drawing(1 - light)
    assert not edges.is_drawing(photo) and not edges.is_drawing(squares())
    assert not edges.is_drawing(np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64, 1).repeat(3, 2))


# Scores ---------------------------------------------------------------------------------------------------------------


def test_matching_is_what_it_says():
    """Brute force over all pairs of pixels."""
    rng = np.random.default_rng(1)
    found, wanted = rng.uniform(size=(2, 20, 24)) < 0.04
    region = np.zeros((20, 24), bool)
    region[3:15, 4:20] = True
    near = lambda a, b: np.mean([np.hypot(*(b - one).T).min() <= 2.0 for one in a])  # noqa: E731
    precision = near(np.argwhere(found & region), np.argwhere(wanted))
    recall = near(np.argwhere(wanted & region), np.argwhere(found))
    result = score.match(found, wanted, region, 2.0)
    assert result["precision"] == pytest.approx(precision) and result["recall"] == pytest.approx(recall)
    assert result["f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_matching_without_lines():
    some, none = np.eye(16, dtype=bool), np.zeros((16, 16), bool)
    everywhere = ~none
    assert score.match(some, some, everywhere)["f1"] == 1
    assert score.match(none, some, everywhere) == {
        "precision": pytest.approx(math.nan, nan_ok=True),
        "recall": 0,
        "f1": 0,
    }
    assert score.match(some, none, everywhere)["f1"] == 0
    assert math.isnan(score.match(none, none, everywhere)["f1"])


def test_the_tolerance():
    wanted, off = np.zeros((2, 32, 32), bool)
    wanted[:, 10] = off[:, 13] = True
    everywhere = np.ones((32, 32), bool)
    assert score.match(off, wanted, everywhere, 2.9)["f1"] == 0 and score.match(off, wanted, everywhere, 3)["f1"] == 1


def test_ms_ssim():
    rng = np.random.default_rng(0)
    one = rng.uniform(size=(96, 80)).astype(np.float32)
    other = one.copy()
    other[60:] = rng.uniform(size=(36, 80))
    everywhere = np.ones_like(one)
    upper = everywhere.copy()
    upper[50:] = 0
    assert score.ms_ssim(one, one, everywhere) == pytest.approx(1, abs=1e-5)
    assert score.ms_ssim(one, other, everywhere) < 0.8 < score.ms_ssim(one, other, upper)
    assert score.ms_ssim(one, 1 - one, everywhere) < 0.1
    assert 0 <= score.ms_ssim(one[:7, :5], other[50:57, :5], everywhere[:7, :5]) <= 1


def test_outside():
    plain, changed = squares(SQUARE), squares(SQUARE)
    changed[20:30, 20:30] = 0
    assert score.outside_change(changed, plain, INSIDE) == 0
    changed[0, 0] += 0.3
    assert score.outside_change(changed, plain, INSIDE) == pytest.approx(0.3 / (1 - INSIDE).sum(), rel=1e-4)
    assert math.isnan(score.outside_change(changed, plain, np.ones_like(INSIDE)))


def test_a_wall_shows_and_a_line_that_crosses_the_border_does_not():
    rng = np.random.default_rng(0)
    grain = 0.5 + 0.02 * rng.standard_normal((64, 64, 3)).astype(np.float32)
    wall = grain + 0.3 * INSIDE[..., None]
    crossing = grain.copy()
    crossing[28:30] = 1
    quiet, walled, crossed = (score.border(each, INSIDE)[1] for each in (grain, wall, crossing))
    assert 0.7 < quiet < 1.4 and walled > 10 * quiet and crossed < 2 * quiet
    assert all(map(math.isnan, score.border(grain, np.ones((64, 64), np.float32))))


def test_overlay_colours_say_what_is_there():
    wanted = edges.canny(squares((16, 16, 40, 28)))
    shown = score.overlay(squares((16, 16, 40, 40)), wanted, INSIDE)
    green, red, blue = ((0.2, 0.9, 0.3), (1.0, 0.25, 0.2), (0.3, 0.5, 1.0))
    count = lambda colour: int((np.abs(shown - np.float32(colour)).max(2) < 1e-6).sum())  # noqa: E731
    assert count(green) > 20 and count(red) > 20 and count(blue) > 10


# Nodes ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes(host):
    from limelight.nodes import local_control_hints as module

    def runner(node):
        return lambda *args, **kwargs: node.execute(*args, **kwargs).result

    return SimpleNamespace(
        hint=runner(module.LimelightEdgeHint), score=runner(module.LimelightLocalControlScore), host=host
    )


def images(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures))


def test_edge_hint(nodes):
    big = squares((100, 100, 700, 600), side=800)
    crisp, note = nodes.hint(images(big, big))
    assert crisp.shape == (2, 800, 800, 3) and set(crisp.unique().tolist()) == {0.0, 1.0} and note == ""
    enlarged, _ = nodes.hint(images(big), "canny", "SDXL")
    assert enlarged.shape == (1, 800, 800, 3) and ((enlarged > 0.2) & (enlarged < 0.8)).any()
    small = squares(SQUARE)
    assert torch.equal(nodes.hint(images(small), "canny", "SDXL")[0], nodes.hint(images(small))[0])
    lines = squares((20, 20, 22, 50), ground=1.0, ink=0.0)
    made, note = nodes.hint(images(lines, 1 - lines), "line drawing")
    assert torch.equal(made[0], made[1]) and note == "image 1: dark lines on a light ground; inverted"
    assert "image 1: looks like lines already" in nodes.hint(images(lines))[1]
    with pytest.raises(LimelightError, match="low: found 300, above high, 200"):
        nodes.hint(images(small), low=300)
    with pytest.raises(LimelightError, match="method: found 'other'"):
        nodes.hint(images(small), "other")


def test_score_node(nodes):
    plain, good = squares((4, 50, 14, 60)), squares(SQUARE, (4, 50, 14, 60))
    given = {"image": images(good, plain), "reference": images(squares(SQUARE)), "mask": torch.from_numpy(INSIDE)}
    found, table, overlay, f1 = nodes.score(**given, plain=images(plain))
    first, second = json.loads(found)["images"]
    assert first["edge_f1"] == 1 and first["edge_f1_plain"] == 0 and first["outside_change"] == 0
    assert first["ms_ssim"] > 0.95 > 0.6 > second["ms_ssim"]
    assert second["edge_f1"] == 0 and second["edge_precision"] is None and f1 == 0.5
    assert first["outside_edges"] == pytest.approx(1) and overlay.shape == (2, 64, 64, 3)
    assert table.startswith("mean\nedge f1") and "image 2" in table and "undefined" in table
    assert "outside_change" not in json.loads(nodes.score(**given)[0])["mean"]


def test_score_node_takes_hints_and_other_sizes(nodes):
    picture = squares(SQUARE)
    hint = nodes.hint(images(picture))[0]
    given = {"image": images(picture), "mask": torch.from_numpy(INSIDE)}
    assert nodes.score(reference=hint, reference_is="hint", **given)[3] == 1
    bigger = torch.nn.functional.interpolate(hint.movedim(3, 1), (192, 192)).movedim(1, 3)
    assert nodes.score(reference=bigger, reference_is="hint", **given)[3] > 0.95
    for wrong, match in (
        ({"reference": hint[:, :32]}, "reference: found 64 x 32 pixels, the image has 64 x 64"),
        ({"mask": torch.zeros(1, 64, 64)}, "mask: found an empty mask"),
        ({"mask": torch.ones(1, 64, 32)}, "mask: found 32 x 64 pixels"),
        ({"plain": torch.zeros(1, 128, 128, 3)}, "plain: found 128 x 128 pixels"),
        ({"reference": hint.expand(3, -1, -1, -1)}, "reference: found 3 in the batch"),
        ({"reference_is": "other"}, "reference_is: found 'other'"),
    ):
        with pytest.raises(LimelightError, match=match):
            nodes.score(**{"reference": hint, **given} | wrong)
