"""The bench of local structure: its cases, what it counts, its table."""

from __future__ import annotations

import numpy as np
import pytest

from limelight.bench import local_control
from limelight.bench.local_control import (
    ADAPTERS,
    AGAIN,
    MASKED,
    ROWS,
    UNGUIDED,
    UNMASKED,
    case,
    scores,
    summaries,
)
from limelight.bench.sheets import outline
from limelight.shapeworld.scenes import render_mask


def test_regions_lie_around_the_first_object():
    for index in range(20):
        scene, picture, region = case(0, index)
        thing = render_mask(scene.things[0])
        assert region[thing > 0].all() and region.mean() < 0.5 and set(np.unique(region)) == {0, 1}
        assert scores(picture, picture, picture, region)["edge_f1_inside"] == 1
        blank = np.full_like(picture, 128)
        assert scores(blank, blank, picture, region)["edge_f1_inside"] == 0
        assert np.array_equal(picture, case(0, index)[1]) and not np.array_equal(picture, case(1, index)[1])
        assert 0 < outline(region).sum() < region.sum()


def test_outside_is_counted_in_levels():
    _, picture, region = case(0, 0)
    other = np.where(region[..., None] > 0, 255 - picture, picture)
    assert scores(other, picture, picture, region)["outside_change"] == 0
    other = np.where(region[..., None] > 0, picture, picture ^ 4)
    assert scores(other, picture, picture, region)["outside_change"] == pytest.approx(4, abs=1e-3)


def test_the_table():
    def one(f1: float, change: float) -> dict:
        found = dict.fromkeys(local_control.METRICS, 0.5) | {"edge_f1_inside": f1, "outside_change": change}
        return found | {"precision": None, "seconds": 2.0, "plain": 1.0}

    adapters = {row: one(0.8, 20 if "unmasked" in row else 5) for row in ADAPTERS}
    found = [
        {UNGUIDED: one(0.2, 0), MASKED: one(f1, 1.5), AGAIN: one(0.9, 1), UNMASKED: one(1, 15), **adapters}
        for f1 in (0.5, 0.7)
    ]
    rows = {row["row"]: row for row in summaries(found)}
    assert tuple(rows) == ROWS and rows[MASKED]["edge_f1_inside"] == pytest.approx(0.6)
    assert rows[MASKED]["outside_share"] == pytest.approx(0.1) and rows[UNMASKED]["outside_share"] == 1
    assert rows["adapter"]["outside_share"] == rows["adapter-global"]["outside_share"] == pytest.approx(0.25)
    assert rows[UNGUIDED]["outside_share"] is None
    assert rows[MASKED]["precision"] is None and rows[MASKED]["overhead"] == 2


def test_one_scene_in_little(host, monkeypatch, tmp_path):
    from limelight.bench import sampling

    monkeypatch.setattr(sampling, "STEPS", 3)
    world = sampling.load_world()
    found = local_control.scene_scores(world, 0, 0, ("adapter", "adapter-paper", "adapter-global"), tmp_path)
    assert list(found) == [UNGUIDED, "adapter", "adapter-paper", "adapter-global"]
    changes = [one["outside_change"] for one in found.values()]
    assert changes[0] == 0 and min(changes[1:]) > 0 and len(set(changes)) == 4
    assert (tmp_path / "0000.png").is_file()


def test_later_steps_cost_no_more_than_with_the_hosts_adapter(sd15):
    """A fast GPU takes 50 ms for a step of Stable Diffusion 1.5; 2 % of that are 1 ms."""
    from limelight.bench.adapter_step import CALLS, calls, controls
    from limelight.bench.guided_step import seconds

    found = seconds(calls(sd15, controls(0, 64, (32, 64, 128, 128)), 64), CALLS)
    assert max(found["adapter"], found["adapter-masked"]) < found["host"] + 1e-3
    assert found["adapter-masked-2"] < found["host-2"] + 2e-3
