"""Losses on attention maps: pure functions of probabilities and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .targets import Target

EPSILON = 1e-6
SATURATED = 1e-4  # shares closer than this to 0 or 1 count as perfect: no logarithm of zero, no gradient


def phrase_map(maps: torch.Tensor, tokens: tuple[int, ...], text_tokens: list[int]) -> torch.Tensor:
    """Share of the prompt's attention that goes to a phrase.

    maps: (B, h, w, T), softmax over T. -> (B, h, w) in [0, 1]: the sum over the phrase's tokens, divided by that over
    all words of the prompt (the start token and padding hold most of the mass and say nothing about layout).
    """
    words = maps[..., text_tokens].sum(-1)
    return maps[..., list(tokens)].sum(-1) / (words + EPSILON)


def placement_loss(maps: torch.Tensor, targets: list[Target], text_tokens: list[int]) -> torch.Tensor:
    """How badly each highlight's attention fits its target. maps: (B, h, w, T). -> (B, n_targets), 0 when perfect.

    Balanced binary cross-entropy of the phrase's share s of the attention (`phrase_map`), each zone averaged by itself:

        L = 1/2 sum(attract * -log s) / sum(attract) + 1/2 sum(suppress * -log(1 - s)) / sum(suppress)

    so that a thin stroke attracts as much as the rest of the canvas repels; the neutral band is free. Its gradient in
    the attention's logits is s - 1 inside and s outside, and fades as the map becomes right. A flat map costs about
    1/2 log(number of words). Our own; the published focal loss feeds probabilities as logits and hardly attracts.
    """
    losses = []
    for target in targets:
        share = phrase_map(maps, target.tokens, text_tokens).clamp(SATURATED, 1 - SATURATED)
        inside = -(share.log() * target.attract).sum((-2, -1)) / (target.attract.sum() + EPSILON)
        outside = -((1 - share).log() * target.suppress).sum((-2, -1)) / (target.suppress.sum() + EPSILON)
        losses.append((inside + outside) / 2)
    return torch.stack(losses, -1)
