"""Scribble propagation of Highlight- and Scribble-Guided Diffusion: strokes that grow along self-attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

CELLS = 20  # that all individuals together gain in a step at t = 1000


def affinity(maps: Mapping[tuple[int, int], torch.Tensor], height: int, width: int) -> torch.Tensor:
    """Self-attention of all sizes in one: how each anchor looks at the latent's cells, summing to 1.

    maps: (B, h * w, h * w) by grid, means over heads and layers. Keys are resized bilinearly to height x width and
    queries to the nearest, each size weighs as much as it has cells (as many as 64x64 weigh 64 times as much as 8x8),
    and 2x2 queries make an anchor. -> (B, height / 2 * width / 2, height * width), halves rounded up.
    """
    total = sum(h * w for h, w in maps)
    return sum(grid[0] * grid[1] / total * _resized(given, grid, (height, width)) for grid, given in maps.items())


def _resized(maps: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    queries = maps.mT.unflatten(-1, grid)  # (B, keys, h, w)
    if grid != size:
        queries = F.interpolate(queries, size=size, mode="nearest")
    queries = F.avg_pool2d(queries, 2, ceil_mode=True, count_include_pad=False).flatten(-2).mT
    keys = queries.unflatten(-1, grid)
    if grid != size:
        keys = F.interpolate(keys, size=size, mode="bilinear", align_corners=False)
    keys = keys.flatten(-2)
    return keys / keys.sum(-1, keepdim=True)


def divergence(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Symmetric KL, half of KL(p | q) + KL(q | p), of p = softmax(x) and q = softmax(y). (B, K, M), (B, N, M) ->
    (B, K, N).

    Written as 1/2 sum (p - q)(x - y), which it equals, with x, y, p and q taken from those of the mean map: its values
    are tiny beside the entropies. Known bug, kept: x and y are probabilities already, so that it stays below 5e-4 for
    any two maps of 64x64.
    """
    centre = y.mean(1, keepdim=True)
    base = centre.softmax(-1)

    def apart(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grown = torch.expm1(maps - centre)
        total = (base * grown).sum(-1, keepdim=True)
        return maps - centre, base * (grown - total) / (1 + total)

    (x, p), (y, q) = apart(x), apart(y)
    own, other = (p * x).sum(-1)[:, :, None], (q * y).sum(-1)[:, None]
    return (own + other - p @ y.mT - x @ q.mT) / 2


def grow(strokes: torch.Tensor, attention: torch.Tensor, threshold: float, time: float) -> torch.Tensor:
    """One round of propagation. strokes: (B, K, h, w) bool; attention: from `affinity`; time: t / 1000. -> strokes.

    On anchors of 2x2 cells: every anchor of an individual offers the one of its 4 neighbours, not yet in any stroke,
    whose attention is nearest (`divergence`, below the threshold) to the mean attention of the individual's anchors. An
    anchor that several ask for goes to the nearest of them; of all, the int(20 t / 1000) nearest join, or as many as
    there are individuals if that is more. Joined anchors are resized bilinearly and everything above zero is added,
    which reaches one cell further. Source: the authors' code of both, where it is a loop over cells; known bugs, kept:
    the threshold hardly ever rejects (see `divergence`), and anchors inside a stroke are not told from its edge.
    """
    strokes = strokes.expand(len(attention), -1, -1, -1)
    height, width = strokes.shape[-2:]
    rows, columns = (height + 1) // 2, (width + 1) // 2
    anchors = F.interpolate(strokes.to(attention), size=(rows, columns), mode="bilinear", align_corners=False) > 0
    members = anchors.flatten(-2).to(attention)
    mean = members @ attention / members.sum(-1, keepdim=True).clamp_min(1)
    distance = divergence(mean, attention).unflatten(-1, (rows, columns))
    distance = distance.masked_fill(anchors.any(1, keepdim=True), torch.inf)
    offered = _offers(anchors, distance) & (distance < threshold)
    nearest = distance.masked_fill(~offered, torch.inf)
    winner = F.one_hot(nearest.argmin(1), strokes.shape[1]).movedim(-1, 1).bool()
    cost = nearest.amin(1).flatten(-2)  # (B, anchors)
    room = min(max(int(CELLS * time), strokes.shape[1]), cost.shape[-1])
    chosen = torch.zeros_like(cost, dtype=torch.bool).scatter(-1, cost.argsort(stable=True, dim=-1)[..., :room], True)
    joined = winner & offered & chosen.unflatten(-1, (rows, columns))[:, None]
    wider = F.interpolate(joined.to(attention), size=(height, width), mode="bilinear", align_corners=False) > 0
    return strokes | wider


def _offers(anchors: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """(B, K, rows, columns) bool: the cells that are the nearest neighbour of an anchor of that individual."""
    rows, columns = anchors.shape[-2:]
    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    padded = F.pad(distance, (1, 1, 1, 1), value=torch.inf)
    around = [padded[..., 1 + y : 1 + y + rows, 1 + x : 1 + x + columns] for y, x in steps]
    best = torch.stack(around).argmin(0)
    offered = F.pad(torch.zeros_like(anchors), (1, 1, 1, 1))
    for direction, (y, x) in enumerate(steps):
        offered[..., 1 + y : 1 + y + rows, 1 + x : 1 + x + columns] |= anchors & (best == direction)
    return offered[..., 1:-1, 1:-1]
