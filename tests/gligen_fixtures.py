"""Fixtures of GLIGEN's tests in runs: a test file has them with ``pytest_plugins = ["gligen_fixtures"]``."""

from __future__ import annotations

import pytest
import torch
from gligen_weights import gligen_of, random_gligen
from guided_runs import conditioning

from limelight.guidance.attention.grounding import Grounding

ALWAYS = {"start_percent": 0.0, "end_percent": 1.0}


@pytest.fixture
def nodes(host):
    from limelight.nodes import highlight_gligen

    return highlight_gligen


@pytest.fixture
def gligen(tiny_sd15):
    """A new GLIGEN that fits the tiny UNet; the same weights each time."""
    return gligen_of(random_gligen(tiny_sd15.model.diffusion_model, 64))


@pytest.fixture
def ground(nodes, clip_l, gligen):
    """-> function (positive, negative=plain, **settings) -> positive and negative of the node, grounded throughout."""

    def run(positive, negative=None, **settings):
        with torch.inference_mode():
            negative = conditioning(seed=9) if negative is None else negative
            return nodes.LimelightHighlightGLIGEN.execute(
                positive, negative, clip_l, gligen, **{**ALWAYS, **settings}
            ).result

    return run


@pytest.fixture
def told(gligen, monkeypatch):
    """What the model's GLIGEN is told, call by call: lists of boxes."""
    calls = []
    original = gligen.model.set_position

    def set_position(shape, params, device):
        slots = Grounding(params).slots(shape[-2:]) if type(params) is list else params.slots(shape[-2:])
        calls.append([tuple(round(edge, 4) for edge in box) for _, boxes in slots for box in boxes])
        return original(shape, params, device)

    monkeypatch.setattr(gligen.model, "set_position", set_position)
    return calls
