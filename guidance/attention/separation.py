"""Keeping objects apart: a loss on self-attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..regions.targets import Target


def separation_loss(maps: torch.Tensor, targets: list[Target]) -> torch.Tensor:
    """How much each highlight's cells look at the cells of the others: they would share features and blend.

    maps: (B, h, w, h * w), self-attention, softmax over the last axis. -> (B, n_targets) in [0, 1]: over the cells of
    a highlight, the mean of what they give to cells that attract only other highlights. 0 with a single highlight.
    """
    maps = maps.flatten(1, 2)
    attract = torch.stack([target.attract.flatten() for target in targets]).to(maps)
    losses = []
    for i, own in enumerate(attract):
        others = torch.cat([attract[:i], attract[i + 1 :]])
        if not len(others):
            return maps.new_zeros(maps.shape[0], 1)
        foreign = others.amax(0) * (1 - own)
        rows = own / own.sum().clamp_min(1e-6)
        losses.append(torch.einsum("n,bnm,m->b", rows, maps, foreign))
    return torch.stack(losses, -1)
