"""The attention modulation of Highlight- and Scribble-Guided Diffusion against plain loops."""

from __future__ import annotations

import pytest
import torch

from limelight.guidance.attention.architectures.unet import Block
from limelight.guidance.attention.bias_methods import Layout
from limelight.guidance.attention.published.modulation import StrokeModulation

CELLS, TOKENS, HEADS = 12, 7, 2


def layout() -> Layout:
    strokes = torch.zeros(3, CELLS)
    strokes[0, 2:6] = 1
    strokes[1, 5:8] = 1  # crosses the first
    strokes[2] = 1 - strokes[:2].amax(0)
    own = torch.zeros(3, TOKENS)
    own[0, [1, 2]], own[1, 4], own[2, 5] = 1, 1, 1
    zones = strokes[:2].T[None, None]
    return Layout([], zones, 1 - zones, own, torch.ones(2), strokes.T)


@pytest.mark.parametrize(("strength", "time"), [(1.0, 0.9), (0.5, 0.7)])
def test_modulation_equals_the_formula(strength: float, time: float) -> None:
    scores = torch.randn(1, HEADS, CELLS, TOKENS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = layout()
    queries = slice(3, 9)
    found = StrokeModulation().cross(lambda: scores[:, :, queries], queries, one, strength, time)
    phrases = {1: 0, 2: 0, 4: 1}  # column -> highlight; the other word, column 5, is left alone
    for head in range(HEADS):
        for n, cell in enumerate(range(3, 9)):
            row = scores[0, head, cell]
            for column in range(TOKENS):
                expected = 0.0
                if column in phrases:
                    stroke = one.regions[:, phrases[column]]
                    weight = strength * (1 - stroke.mean().item()) * time**5
                    up, down = row.max() - row[column], row[column] - row.min()
                    expected = (weight * up if stroke[cell] else -weight * down).item()
                assert found[0, head, n, column].item() == pytest.approx(expected, abs=1e-6)


def test_modulation_acts_in_coarse_cross_attention_on_the_way_up() -> None:
    method = StrokeModulation()

    def acts(name: str, side: int, latent: int) -> bool:
        return method.cross_block(Block((name, 3, 0), (side, side)), (latent, latent))

    assert acts("output", 16, 64) and not acts("input", 16, 64) and not acts("output", 32, 64)
    assert acts("output", 16, 128) and not acts("output", 8, 64)
    assert not method.self_block(Block(("output", 3, 0), (16, 16)), (64, 64))
