"""Object expansion: the measures against plain counting, the nodes, odd masks."""

from __future__ import annotations

import json
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from limelight.guidance.errors import LimelightError
from limelight.guidance.expansion import measure


@pytest.fixture(scope="module")
def nodes(host):
    """-> function (node id, *arguments) -> the outputs of the node."""
    from limelight.nodes import salient_object_measure

    known = {node.GET_SCHEMA().node_id: node for node in salient_object_measure.NODES}

    def run(name: str, *args, **kwargs):
        with torch.inference_mode():
            return known[f"Limelight{name}"].execute(*args, **kwargs).result

    return run


def block(*box: int, side: int = 50) -> np.ndarray:
    """(side, side), 1 in left, top, right, bottom."""
    mask = np.zeros((side, side), np.float32)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = 1
    return mask


def grids(side: int = 9):
    return arrays(np.float32, (side, side), elements=st.sampled_from([0.0, 0.0, 0.3, 0.5, 0.9999, 1.0]))


def flooded(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Growth that hangs together with the subject, by walking from it over 8 neighbours."""
    grown, seen = after & ~before, np.zeros_like(before)
    queue = deque(zip(*np.nonzero(before), strict=True))
    while queue:
        y, x = queue.popleft()
        for v in range(max(y - 1, 0), min(y + 2, len(before))):
            for u in range(max(x - 1, 0), min(x + 2, before.shape[1])):
                if grown[v, u] and not seen[v, u]:
                    seen[v, u] = True
                    queue.append((v, u))
    return seen


@settings(deadline=None, derandomize=True, max_examples=300)
@given(before=grids(), after=grids())
def test_measures_are_what_counting_gives(before, after):
    one, other = before >= 0.5, after >= 0.5
    assume(one.any() and not one.all())
    report, found = measure.expansion(before, after)
    subject = one.sum()
    assert report["expansion"] == pytest.approx(((one | other).sum() - subject) / one.size)
    assert report["signed"] == pytest.approx((other.sum() / one.size) - subject / one.size)
    assert report["shrink"] == pytest.approx((one & ~other).sum() / subject) and report["shrink"] == report["lost"]
    assert report["attached"] + report["detached"] == pytest.approx(report["relative"])
    assert np.array_equal(found.attached, flooded(one, other))
    assert report["growth"] == report["attached"] and report["floor"] == 0 and report["identity"] is None
    ys, xs = np.nonzero(one)
    far = [min(np.hypot(ys - y, xs - x)) for y, x in zip(*np.nonzero(found.attached), strict=True)]
    assert report["reach"] == pytest.approx(max(far, default=0), abs=0.02)
    mirrored, _ = measure.expansion(before[:, ::-1].copy(), after[:, ::-1].copy())
    assert mirrored == pytest.approx(report, abs=1e-6, nan_ok=True)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(before=grids(), after=grids(), more=grids(), band=st.floats(0, 4), grow=st.floats(0, 4))
def test_bands_and_leaks(before, after, more, band, grow):
    one = before >= 0.5
    assume(one.any() and not one.all())
    wide, found = measure.expansion(before, after, band)
    plain, bare = measure.expansion(before, after)
    assert wide["relative"] == plain["relative"]
    assert wide["lost"] <= plain["lost"] and wide["reach"] <= plain["reach"] + 1e-6 or wide["attached"]
    assert wide["attached"] + wide["detached"] <= plain["relative"] + 1e-6
    assert not (found.attached & (found.distance <= band)).any() and not (found.attached & found.detached).any()
    same, _ = measure.expansion(before, before, band)
    assert not any(value for value in same.values())
    union, _ = measure.expansion(before, np.maximum(after, more), band)
    assert union["relative"] >= plain["relative"] and union["shrink"] <= plain["shrink"]
    leak = measure.leak(found, grow)
    assert not (leak & one).any() and (leak >= found.attached).all()
    assert leak.any() == found.attached.any()
    assert (measure.leak(found, grow, detached=True) >= leak).all()


def test_parts_of_the_growth():
    before = block(10, 10, 30, 30)
    arm, other = block(30, 15, 40, 20), block(42, 42, 48, 48)
    after = np.maximum.reduce([before, arm, other]) - block(10, 10, 14, 14)
    report, found = measure.expansion(before, after, 2.0)
    assert report["attached"] == pytest.approx(8 * 5 / 400)  # of ten columns two are in the band
    assert report["detached"] == pytest.approx(36 / 400) and report["shrink"] == pytest.approx(16 / 400)
    assert report["lost"] == pytest.approx(4 / 400) and report["reach"] == pytest.approx(10)
    assert report["expansion"] == pytest.approx(86 / 2500) and report["signed"] == pytest.approx(70 / 2500)
    # a ring of two pixels is jitter with a band of two, growth without
    ring = block(8, 8, 32, 32)
    assert measure.expansion(before, ring, 2.9)[0]["attached"] == 0
    assert measure.expansion(before, ring, 0.0)[0]["attached"] == pytest.approx((24 * 24 - 400) / 400)
    # a gap no wider than the band does not detach
    assert measure.expansion(before, np.maximum(before, block(32, 15, 40, 20)), 2.0)[0]["attached"] > 0
    assert measure.expansion(before, np.maximum(before, block(35, 15, 40, 20)), 2.0)[0]["attached"] == 0


def test_floor_and_identity():
    before, after = block(10, 10, 30, 30), block(10, 10, 36, 30)
    report, _ = measure.expansion(before, after, 1.0, floor=block(10, 10, 33, 30))
    assert report["floor"] == pytest.approx(40 / 400) and report["growth"] == pytest.approx(60 / 400)
    assert measure.expansion(before, before, 1.0, floor=after)[0]["growth"] == 0
    picture = np.random.default_rng(0).random((50, 50, 3)).astype(np.float32)
    changed = picture + 0.1 * before[..., None]
    changed[10, 10:30] = 5  # the edge itself does not count
    report, _ = measure.expansion(before, before, 2.0, (picture, changed))
    assert report["identity"] == pytest.approx(0.1, abs=1e-5)
    report, _ = measure.expansion(before, before, 2.0, (picture, 1 - before[..., None] + picture * before[..., None]))
    assert report["identity"] == 0


def test_report_of_a_batch(nodes):
    before = torch.from_numpy(block(10, 10, 30, 30))[None]
    afters = [block(10, 10, 30, 30), block(10, 10, 40, 30), block(10, 10, 20, 30)]
    after = torch.from_numpy(np.stack(afters))
    picture = torch.rand(3, 50, 50, 3)
    passed, growth, found, table, heat = nodes("ObjectExpansion", before, after, 2.0, 5.0, image=picture)
    report = json.loads(found)
    assert [row["passed"] for row in report["images"]] == [True, False, False] and passed is False
    assert report["band_pixels"] == 1 and report["limit"] == 0.05
    assert growth == pytest.approx(100 * (9 * 20 / 400) / 3) and len(table.splitlines()) == 4
    assert report["images"][2]["lost"] == pytest.approx(9 * 18 / 400) and "identity" not in report["mean"]
    assert heat.shape == (3, 50, 50, 3)
    for i, (x, y) in {1: (35, 20), 2: (25, 20)}.items():
        assert not torch.equal(heat[i, y, x], picture[i, y, x]) and torch.equal(heat[0, y, 45], picture[0, y, 45])
    for i in range(3):
        alone = nodes("ObjectExpansion", before, after[i : i + 1], 2.0, 5.0, image=picture[i : i + 1])
        row = json.loads(alone[2])["images"][0]
        assert row == report["images"][i] and torch.equal(alone[4], heat[i : i + 1])
    same = nodes("ObjectExpansion", before, after[:1], original=picture[:1], image=picture[:1])
    assert same[0] is True and json.loads(same[2])["mean"]["identity"] == 0
    grey = nodes("ObjectExpansion", before, after)[4]
    assert grey.shape == heat.shape and grey.std() > 0


def test_the_best_of_a_batch(nodes):
    before = torch.from_numpy(block(10, 10, 30, 30))[None]
    afters = [block(10, 10, 40, 30), block(10, 10, 33, 30), block(10, 10, 22, 30), np.zeros((50, 50), np.float32)]
    after, pictures = torch.from_numpy(np.stack(afters)), torch.rand(4, 50, 50, 3)
    best, masks, indices, table = nodes("SelectByExpansion", pictures, before, after, 2)
    assert indices == "1, 2" and torch.equal(best, pictures[[1, 2]]) and torch.equal(masks, after[[1, 2]])
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["1", "2", "0", "3"]
    assert nodes("SelectByExpansion", pictures, before, after, 2, "growth")[2] == "2, 3"  # none grew; less is lost
    assert nodes("SelectByExpansion", pictures, before, after, 9, "signed (notebook)")[2] == "1, 2, 0, 3"
    assert nodes("SelectByExpansion", pictures, before, after, 1, "relative (paper)")[2] == "2"
    ground = torch.from_numpy(afters[0])[None]
    assert nodes("SelectByExpansion", pictures, before, after, 1, floor=ground)[2] == "1"
    with pytest.raises(LimelightError, match="after: found 1 masks for 4 pictures"):
        nodes("SelectByExpansion", pictures, before, after[:1])
    with pytest.raises(LimelightError, match="metric: found 'size'"):
        nodes("SelectByExpansion", pictures, before, after, 1, "size")


def test_leak_mask(nodes):
    before = torch.from_numpy(block(10, 10, 30, 30))[None]
    arm, other = block(30, 15, 40, 20), block(42, 42, 48, 48)
    after = torch.from_numpy(np.maximum.reduce([before[0].numpy(), arm, other]))[None]
    mask, leaks = nodes("LeakMask", before, after, 2.0, 0.0)
    assert leaks is True and np.array_equal(mask[0].numpy(), arm)  # the band is filled where the arm crosses it
    wide, _ = nodes("LeakMask", before, after, 2.0, 6.0)
    assert wide[0, 17, 42] == 1 and wide[0, 17, 44] == 0 and not (wide * before).any() and (wide >= mask).all()
    both, _ = nodes("LeakMask", before, after, 2.0, 0.0, True)
    assert np.array_equal(both[0].numpy(), np.maximum(arm, other))
    none, leaks = nodes("LeakMask", before, before)
    assert leaks is False and none.shape == before.shape and not none.any()


def test_masks_that_are_odd(nodes):
    before = torch.from_numpy(block(10, 10, 30, 30))[None]
    after = torch.from_numpy(block(10, 10, 40, 30))[None]
    exact = nodes("ObjectExpansion", before, after)[2]
    assert nodes("ObjectExpansion", before * 0.9999, after * 0.9999)[2] == exact
    # a subject that is gone, and one that is all
    gone = json.loads(nodes("ObjectExpansion", before, torch.zeros_like(after))[2])["images"][0]
    assert gone["shrink"] == 1 and gone["growth"] == 0 and gone["passed"] is False
    everything = json.loads(nodes("ObjectExpansion", before, torch.ones_like(after))[2])["images"][0]
    assert everything["expansion"] == pytest.approx(2100 / 2500) and everything["passed"] is False
    # other sizes of the same format
    double = after.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert nodes("ObjectExpansion", before, double)[2] == exact
    for bad, match in (
        ((torch.zeros_like(before), after), r"before: found an empty mask"),
        ((torch.ones_like(before), after), r"before: found a mask that is white everywhere"),
        ((before, after[:, :30]), r"after: found 50 x 30 pixels, before has 50 x 50"),
        ((before.expand(2, -1, -1), after.expand(3, -1, -1)), r"before, after: found 2 and 3"),
        ((before * torch.nan, after), r"before: found values that are not numbers"),
        ((before, None), r"after: found nothing"),
    ):
        for name in ("ObjectExpansion", "LeakMask"):
            with pytest.raises(LimelightError, match=match):
                nodes(name, *bad)
    with pytest.raises(LimelightError, match="band: found 11"):
        nodes("ObjectExpansion", before, after, 11.0)
    with pytest.raises(LimelightError, match="floor: found 2 in the batch"):
        nodes("ObjectExpansion", before, after, floor=before.expand(2, -1, -1))
    with pytest.raises(LimelightError, match="original: found values that are not numbers"):
        nodes(
            "ObjectExpansion",
            before,
            after,
            image=torch.rand(1, 50, 50, 3),
            original=torch.full((1, 50, 50, 3), torch.nan),
        )
    with pytest.raises(LimelightError, match="image: found 40 x 50 pixels"):
        nodes("ObjectExpansion", before, after, image=torch.rand(1, 50, 40, 3))
