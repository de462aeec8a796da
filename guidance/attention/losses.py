"""Losses on attention maps: pure functions of probabilities and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..regions.targets import moments

if TYPE_CHECKING:
    from ..regions.targets import Target

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

        L = 1/2 mean_i sum(attract_i * -log s) / sum(attract_i) + 1/2 sum(suppress * -log(1 - s)) / sum(suppress)

    so that a thin stroke attracts as much as the rest of the canvas repels, and each object i of a phrase (attract_i:
    its part of the region) as much as the others; the neutral band is free. Every cell along a line has to hold the
    phrase, so that arcs and S-curves are followed as straight strokes are. Its gradient in
    the attention's logits is s - 1 inside and s outside, and fades as the map becomes right. A flat map costs about
    1/2 log(number of words). Our own; the published focal loss feeds probabilities as logits and hardly attracts.
    """
    losses = []
    for target in targets:
        share = phrase_map(maps, target.tokens, text_tokens).clamp(SATURATED, 1 - SATURATED)
        attract = target.attract.unsqueeze(-3) * target.parts
        attract = (attract / (attract.sum((-2, -1), keepdim=True) + EPSILON)).mean(-3)
        inside = -(share.log() * attract).sum((-2, -1))
        outside = -((1 - share).log() * target.suppress).sum((-2, -1)) / (target.suppress.sum() + EPSILON)
        losses.append((inside + outside) / 2)
    return torch.stack(losses, -1)


def shape_loss(maps: torch.Tensor, targets: list[Target], text_tokens: list[int]) -> torch.Tensor:
    """How far a phrase's attention around each of its objects is from the region in orientation and extent.

    maps: (B, h, w, T) -> (B, n_targets), >= 0. With C the covariance of a map in space and tr its trace, for A = the
    phrase's share where it may be (attract and neutral zone, the part nearest to the object) and S = the region:

        L = mean_i ||C_A / tr C_A - C_S / tr C_S||_F^2 + (log(tr C_A / tr C_S) / 2)^2

    Smooth and pi-periodic in the orientation, unlike the published arctangent; the second term is the squared log
    ratio of the extents. A sits around S, so that a thin region's extent is that of its neutral band at most.
    """
    losses = []
    for target in targets:
        share = phrase_map(maps, target.tokens, text_tokens)
        around = (share * (1 - target.suppress)).unsqueeze(1) * target.parts  # (B, I, h, w)
        _, found, found_form = moments(around)
        _, wanted, wanted_form = moments(target.instances)
        orientation = (found_form - wanted_form).square().sum((-2, -1))
        extent = (_trace(found) / _trace(wanted)).log().square() / 4
        losses.append((orientation + extent).mean(1))
    return torch.stack(losses, -1)


def _trace(covariance: torch.Tensor) -> torch.Tensor:
    return covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
