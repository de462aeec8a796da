"""Regions on grids: how much of each cell a mask covers, exactly, whatever its size; feather and halo.

A cell is an interval of the mask's pixels along each axis. That covers masks finer or coarser than the image, odd
sizes, parts of an image and hints that are cropped to the image's aspect, all in the same way.
"""

from __future__ import annotations

import torch

from ..regions import raster

_EMPTY = 0.5 / 255  # up to here a mask is black: tools that resize it may leave traces


def coverage(masks: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The share of each cell that is covered, as the mean of the mask over it. On the CPU.

    masks: (K, H, W) in [0, 1]. rows: (h, 2), columns: (w, 2), the cells' first and last edge in pixels of the mask, in
    float64. -> (K, h, w) float32: exactly 0 where nothing is covered and exactly 1 where everything is.
    """
    down, across = overlap(rows, masks.shape[1]), overlap(columns, masks.shape[2])
    return (down @ masks.double().cpu() @ across.T).clamp(0, 1).float()


def overlap(edges: torch.Tensor, size: int) -> torch.Tensor:
    """(cells, 2) edges -> (cells, size) float64: which share of each cell every pixel makes up; rows sum to 1."""
    pixels = torch.arange(size, dtype=torch.float64)
    low, high = edges[:, :1], edges[:, 1:]
    shared = torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)
    return shared.clamp(min=0) / (high - low)


def cells(stride: float, length: float) -> torch.Tensor:
    """Edges of the cells of one axis: as many of `stride` pixels as `length` needs, the last one cut off at the end."""
    count = -int(-length // stride)
    starts = torch.arange(count, dtype=torch.float64) * stride
    return torch.stack([starts, (starts + stride).clamp(max=length)], 1)


def feathered(masks: torch.Tensor, width: float) -> torch.Tensor:
    """Masks (K, H, W) that rise from 0 at their edge to what they were `width` pixels further in, and nowhere above
    what they were. The image's own border is no edge."""
    if width <= 0:
        return masks
    ramps = [raster.distance(~inside) for inside in (masks > _EMPTY).cpu().numpy()]
    return torch.stack(
        [mask * (torch.from_numpy(ramp) / width).clamp(0, 1) for mask, ramp in zip(masks.cpu(), ramps, strict=True)]
    )


def surroundings(masks: torch.Tensor, halo: float) -> torch.Tensor:
    """(K, H, W) float32: 1 in the region and up to `halo` pixels around it, then fading to 0 over half as far again."""
    found = []
    for inside in (masks > _EMPTY).cpu().numpy():
        away = torch.from_numpy(raster.distance(inside))
        found.append((1 - (away - halo) / max(halo / 2, 1)).clamp(0, 1))
    return torch.stack(found)
