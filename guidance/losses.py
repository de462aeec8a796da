"""Losses on attention maps: pure functions of probabilities and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .targets import Target

EPSILON = 1e-6


def phrase_map(maps: torch.Tensor, tokens: tuple[int, ...], text_tokens: list[int]) -> torch.Tensor:
    """Share of the prompt's attention that goes to a phrase.

    maps: (B, h, w, T), softmax over T. -> (B, h, w) in [0, 1]: the sum over the phrase's tokens, divided by that over
    all words of the prompt (the start token and padding hold most of the mass and say nothing about layout).
    """
    words = maps[..., text_tokens].sum(-1)
    return maps[..., list(tokens)].sum(-1) / (words + EPSILON)


def placement_loss(maps: torch.Tensor, targets: list[Target], text_tokens: list[int]) -> torch.Tensor:
    """How badly each highlight's attention fits its target. maps: (B, h, w, T). -> (B, n_targets), 0 when perfect."""
    losses = []
    for target in targets:
        share = phrase_map(maps, target.tokens, text_tokens)
        inside = (share * target.attract).sum((-2, -1))
        outside = (share * target.suppress).sum((-2, -1))
        losses.append((outside / (inside + outside + EPSILON)).square())
    return torch.stack(losses, -1)
