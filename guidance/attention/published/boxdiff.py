"""BoxDiff: inner-box, outer-box and corner constraints (Xie et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .attend_and_excite import Refining, worst
from .base import coarse_map, sharpened
from .regions import Box, boxes, cells_of

if TYPE_CHECKING:
    from ..scenes import Scene
    from ..seen import Seen

BOX_SHARE = 0.2  # P
CORNER_REACH = 1  # L, in cells


def boxdiff(a: torch.Tensor, tokens: Sequence[Sequence[int]], regions: Sequence[Sequence[Box]]) -> torch.Tensor:
    """Inner + outer + corner constraints, unweighted, summed over every token of a phrase with each of its boxes.

    inner = 1 - mean of the top k of a' inside the box, k = floor(0.2 |box|); outer = mean of the top k of a' outside,
    k = floor(0.2 |outside|); corner, per axis: |max-projection of a' - projection of the box| on the cells within 1 of
    the box's two edges, mean over the axis.

    a: (B, h, w, T), `sharpened` maps; tokens and regions: of each phrase. -> (B, n). Published, a phrase has one token
    and one box. Source: Xie et al. 2023, the authors' code. The one thing not kept: published, a box under five cells
    has k = 0 and the loss is NaN; here k is at least 1.
    """
    losses = []
    for own, box in _pairs(a, tokens, regions):
        each = [inner(own, one) + outer(own, one) + corner(own, one) for one in box]
        losses.append(torch.stack(each, -1).sum((1, 2)))
    return torch.stack(losses, -1)


def boxdiff_inner(a: torch.Tensor, tokens: Sequence[Sequence[int]], regions: Sequence[Sequence[Box]]) -> torch.Tensor:
    """The worst inner-box constraint of each phrase: what the refinement descends. As `boxdiff`. -> (B, n)."""
    each = [torch.stack([inner(own, one) for one in box], -1).amax((1, 2)) for own, box in _pairs(a, tokens, regions)]
    return torch.stack(each, -1)


def _pairs(a: torch.Tensor, tokens: Sequence[Sequence[int]], regions: Sequence[Sequence[Box]]):
    """Of each phrase: its tokens' maps (B, tokens, h, w), and its boxes."""
    return [(a[..., list(columns)].movedim(-1, 1), box) for columns, box in zip(tokens, regions, strict=True)]


def inner(a: torch.Tensor, box: Box) -> torch.Tensor:
    """a: (B, tokens, h, w) -> (B, tokens)."""
    inside = cells_of(box, a)
    return 1 - _top(a * inside, inside)


def outer(a: torch.Tensor, box: Box) -> torch.Tensor:
    """a: (B, tokens, h, w) -> (B, tokens). A box that fills the canvas has no outside: 0."""
    outside = 1 - cells_of(box, a)
    return _top(a * outside, outside)


def corner(a: torch.Tensor, box: Box) -> torch.Tensor:
    """Both axes. a: (B, tokens, h, w) -> (B, tokens)."""
    inside = cells_of(box, a)
    loss = 0
    for axis, (low, high) in ((-2, (box[0], box[2])), (-1, (box[1], box[3]))):  # reducing rows: the profile along x
        profile, wanted = a.amax(axis), inside.amax(axis)
        edges = torch.zeros_like(wanted)
        for edge in (low, high):
            edges[max(0, edge - CORNER_REACH) : edge + CORNER_REACH + 1] = 1
        loss = loss + ((profile - wanted).abs() * edges).mean(-1)
    return loss


def _top(a: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Mean of the largest fifth of a region's cells; `a` is zero elsewhere."""
    k = max(1, math.floor(BOX_SHARE * int(region.sum())))
    return a.flatten(-2).topk(k).values.mean(-1)


class BoxDiff(Refining):
    """BoxDiff. The refinement descends the worst inner-box constraint alone; it is on by default as in the published
    configuration, though the examples of its README switch it off."""

    def objectives(self, seen: Seen, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
        a = sharpened(coarse_map(seen.cross))
        targets = scene.targets(a.shape[1], a.shape[2], a.device)
        found = a, [target.tokens for target in targets], boxes(targets)
        return boxdiff(*found), worst(boxdiff_inner(*found))
