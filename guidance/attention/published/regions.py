"""Strokes as the boxes and 0/1 masks that the published losses take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from ...regions.targets import Target
    from ..scenes import Scene

BOX_MARGIN = 0.05  # of the canvas, around the stroke
_COVERED = 0.25  # a cell belongs to the stroke's bounding box when at least this share of it is covered

Box = tuple[int, int, int, int]


def bounding_box(coverage: torch.Tensor) -> Box:
    """Cells (x0, y0, x1, y1), ends exclusive, of a coverage (h, w) and BOX_MARGIN around it. Never empty."""
    height, width = coverage.shape
    covered = coverage >= min(_COVERED, float(coverage.max()))
    ys, xs = (torch.nonzero(covered.any(axis))[:, 0] for axis in (1, 0))
    wide, high = round(BOX_MARGIN * width), round(BOX_MARGIN * height)
    x0, x1 = max(0, int(xs[0]) - wide), min(width, int(xs[-1]) + 1 + wide)
    y0, y1 = max(0, int(ys[0]) - high), min(height, int(ys[-1]) + 1 + high)
    return x0, y0, x1, y1


def boxes(targets: Sequence[Target]) -> list[list[Box]]:
    """The boxes of every highlight, one an object: where the published methods have boxes drawn by hand."""
    return [[bounding_box(instance) for instance in target.instances] for target in targets]


def cells_of(box: Box, like: torch.Tensor) -> torch.Tensor:
    """(h, w), 1 in the box and 0 elsewhere, of the size of the last two axes of ``like``."""
    x0, y0, x1, y1 = box
    inside = like.new_zeros(like.shape[-2:])
    inside[y0:y1, x0:x1] = 1
    return inside


def individuals(scene: Scene, device: torch.device) -> tuple[torch.Tensor, list[int]]:
    """Every object of every highlight on the latent's grid: strokes (1, K, H, W) bool, and whose they are.

    Published, an individual is a connected component of a phrase's strokes at 64x64; here the document says which
    strokes make up one object. A cell that the stroke touches belongs to it.
    """
    targets = scene.targets(*scene.size, device)
    owner = [i for i, target in enumerate(targets) for _ in target.instances]
    return torch.cat([target.instances for target in targets])[None] > 0, owner


def on_grid(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, K, H, W) bool -> (B, K, h, w) bool: bilinear resize, and everything above zero. Published.

    The published resize looks at the middle of each cell only and can lose a thin stroke; one that is lost altogether
    takes the cells that it touches, so that nothing divides by zero.
    """
    if masks.shape[-2:] == (height, width):
        return masks
    planes = masks.float()
    found = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False) > 0
    touched = F.adaptive_max_pool2d(planes, (height, width)) > 0
    return torch.where(found.any((-2, -1), keepdim=True), found, touched)


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """(B, K, H, W) bool -> (B, K, H, W) bool: the bounding box of each mask and 5 % of the canvas around it."""

    def span(taken: torch.Tensor) -> torch.Tensor:
        """(..., n) bool -> (..., n) bool: from the first to the last, and the margin."""
        count = taken.shape[-1]
        margin = round(BOX_MARGIN * count)
        first = taken.int().argmax(-1, keepdim=True) - margin
        last = count - 1 - taken.flip(-1).int().argmax(-1, keepdim=True) + margin
        at = torch.arange(count, device=taken.device)
        return (at >= first) & (at <= last) & taken.any(-1, keepdim=True)

    return span(masks.any(-1))[..., :, None] & span(masks.any(-2))[..., None, :]
