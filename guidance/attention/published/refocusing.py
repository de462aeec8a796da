"""Attention Refocusing: losses on cross-, self- and gated attention with boxes (Phung, Ge and Huang 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .regions import Box, cells_of

CLOSED = 15  # the step from which only bad values count
MISSING, WEAK = 0.1, 0.2  # attention inside a box
ASTRAY, STRAY = 0.15, 0.1  # attention in another's box
GROUNDING_WEIGHT = 3.0


def cross_refocusing(
    a: torch.Tensor, tokens: Sequence[Sequence[int]], regions: Sequence[Sequence[Box]], step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """CAR: attention into the own boxes, out of the others', off the background. Summed over the tokens of an object.

    inside: with m = max of a' in a box, w (1 - m), w = 6 for m < 0.1; 1 for m < 0.2; else 1 before step 15 and 0 after.
    others: with M = max of a' in a box of another object, own boxes set to 0: w M, w = 4 for M > 0.15; 1 for M > 0.1;
    else 1 before step 15 and 0 after. background: half the max outside all boxes, times the number of own boxes.
    The sum is divided by the number of objects.

    a: (B, h, w, T), `sharpened` maps; tokens and regions: of each object; step: of the published run.
    -> the loss (B, n), its sum over objects is CAR; and the smallest m (B,), which ends the loop.
    Source: Phung et al. 2024, the authors' code.
    """
    always = float(step < CLOSED)
    losses, smallest = [], []
    for i, columns in enumerate(tokens):
        own = a[..., list(columns)].movedim(-1, 1)  # (B, tokens, h, w)
        inside = torch.stack([_peak(own, cells_of(box, a[..., 0])) for box in regions[i]], -1)
        weight = torch.where(inside < MISSING, 6.0, torch.where(inside < WEAK, 1.0, always))
        loss = (weight * (1 - inside)).sum((1, 2))
        outside = own * (1 - _union(regions[i], a[..., 0]))
        foreign = [box for k, boxes in enumerate(regions) for box in boxes if k != i]
        for box in foreign:
            peak = _peak(outside, cells_of(box, a[..., 0]))
            weight = torch.where(peak > ASTRAY, 4.0, torch.where(peak > STRAY, 1.0, always))
            loss = loss + (weight * peak).sum(1)
        background = _peak(outside, 1 - _union([*regions[i], *foreign], a[..., 0]))
        losses.append(loss + len(regions[i]) / 2 * background.sum(1))
        smallest.append(inside.detach().amin((1, 2)))
    return torch.stack(losses, -1) / len(tokens), torch.stack(smallest, -1).amin(-1)


def self_refocusing(maps: torch.Tensor, regions: Sequence[Sequence[Box]]) -> torch.Tensor:
    """SAR: what the cells of a box give to cells outside it. Mean over the box's cells, sum over boxes, / objects.

    maps: (B, h, w, h * w), self-attention, the mean over heads and layers (the loss is linear in it). -> (B, n); the
    sum over objects is SAR. Source: Phung et al. 2024, the authors' code.
    """
    losses = []
    for own in regions:
        insides = [cells_of(box, maps[..., 0]).flatten() for box in own]
        each = [torch.einsum("n,bnm,m->b", i / i.sum(), maps.flatten(1, 2), 1 - i) for i in insides]
        losses.append(sum(each))
    return torch.stack(losses, -1) / len(regions)


def grounding_refocusing(maps: torch.Tensor, regions: Sequence[Sequence[Box]], height: int, width: int) -> torch.Tensor:
    """What the cells of a box give, in gated self-attention, to the grounding token that they heed most but their own.

    The mean over the box's cells; of it the largest of the slots but one, mean over heads, sum over boxes, / objects.

    maps: (B, heads, h * w + slots, h * w + slots), the mean over layers. -> (B, n), before the weight 3.
    Known bugs, kept: the i-th object's own token is taken to be the i-th slot, which is wrong once an object before it
    has two boxes; and unused slots count as tokens of others. Source: Phung et al. 2024, the authors' code.
    """
    cells = height * width
    losses = []
    for i, own in enumerate(regions):
        slots = torch.arange(maps.shape[-1] - cells, device=maps.device)
        loss = 0
        for box in own:
            inside = cells_of(box, maps.new_empty(height, width)).flatten()
            given = torch.einsum("n,bknm->bkm", inside / inside.sum(), maps[:, :, :cells, cells:])
            loss = loss + given.masked_fill(slots == i, 0).amax(-1).mean(-1)
        losses.append(loss)
    return torch.stack(losses, -1) / len(regions)


def _union(regions: Sequence[Box], like: torch.Tensor) -> torch.Tensor:
    return torch.stack([cells_of(box, like) for box in regions]).amax(0)


def _peak(a: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """The largest value in a region (h, w) of non-negative a (..., h, w)."""
    return (a * region).amax((-2, -1))
