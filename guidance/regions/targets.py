"""Bound highlights -> what their attention should look like on a grid (h, w): attract, neutral, suppress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..checks import number
from ..errors import LimelightError
from .document import Instance, parse_instances
from .raster import coverage_and_distance

BAND = 0.06  # of the short side: how far an object may reach beyond its region
MAX_LOOSENESS = 20.0


@dataclass(frozen=True)
class Target:
    """The target of one highlight on one grid. attract + neutral + suppress == 1 in every cell."""

    phrase: str
    tokens: tuple[int, ...]
    """Columns of the phrase in the cross-attention context."""
    strength: float
    instances: torch.Tensor
    """(I, h, w) in [0, 1]: the share of each cell that each object's region covers. Never all zero."""
    parts: torch.Tensor
    """(I, h, w) in [0, 1], sums to 1 over I: the share of each cell that is nearest to each object."""
    attract: torch.Tensor
    """(h, w) in [0, 1]: the regions, scaled so that each instance peaks at 1 however thin it is."""
    neutral: torch.Tensor
    """(h, w) in [0, 1]: the band around the regions into which the object may grow."""
    suppress: torch.Tensor
    """(h, w) in [0, 1]: beyond the band, and over the other highlights' regions."""
    index: int = 0
    """Which of the conditioning's highlights it is."""


def build_targets(
    bound: Mapping, height: int, width: int, looseness: float = 1.0, device: torch.device | str | None = None
) -> list[Target]:
    """Draws the highlights of one conditioning entry (``limelight_highlights``) on the grid (``height``, ``width``).

    With D the distance from the edge of a region in units of the short side, the neutral band is
    0 < D <= ``looseness`` * (0.06 + half width), where half width is that of the object's widest stroke (a stroke is
    the skeleton of an object) and 0 for boxes, polygons and masks (they are its extent). All three zones are area
    averages over a cell. Where another highlight attracts, the band and what is beyond are suppressed; own attraction
    always wins. Highlights of strength 0 are left out, as if they did not exist. float32, on ``device``.
    """
    looseness = number(looseness, "looseness", 0.0, MAX_LOOSENESS)
    drawn = []

    def grid(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    for i, item in enumerate(bound["highlights"]):
        if not item["tokens"]:
            raise LimelightError(
                f"highlights[{i}] ({item['phrase']!r}): no token of the prompt is bound to it. Use Highlight Prompt or "
                "Highlight Bind to bind highlights to a conditioning."
            )
        if item["strength"] > 0:
            zones = _zones(parse_instances(item["instances"], f"highlights[{i}].instances"), height, width, looseness)
            drawn.append((i, item["phrase"], tuple(item["tokens"]), float(item["strength"]), *zones))
    targets = []
    for i, (index, phrase, tokens, strength, covers, parts, attract, far) in enumerate(drawn):
        others = [other[6] for k, other in enumerate(drawn) if k != i]
        avoid = np.maximum.reduce([far, *others])
        suppress = (1 - attract) * avoid
        neutral = (1 - attract) * (1 - avoid)
        region = grid(covers), grid(parts)
        targets.append(Target(phrase, tokens, strength, *region, grid(attract), grid(neutral), grid(suppress), index))
    return targets


def moments(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Place, size and orientation of non-negative maps. Differentiable; smooth where orientation is undefined.

    maps: (..., h, w) -> centroid (..., 2) as (x, y) and covariance (..., 2, 2), both in units of the short side, and
    the covariance divided by its trace (trace 1; an isotropic map gives I/2). Each cell counts as a flat square, which
    adds 1/12 of its area, so that the trace is never zero. An all-zero map counts as a uniform one.
    """
    height, width = maps.shape[-2:]
    short = min(height, width)
    weights = torch.where(maps.sum((-2, -1), keepdim=True) > 0, maps, torch.ones_like(maps))
    weights = weights / weights.sum((-2, -1), keepdim=True)
    across, down = weights.sum(-2), weights.sum(-1)
    x = (torch.arange(width, dtype=maps.dtype, device=maps.device) + 0.5) / short
    y = (torch.arange(height, dtype=maps.dtype, device=maps.device) + 0.5) / short
    centre_x, centre_y = (across * x).sum(-1), (down * y).sum(-1)
    offset_x, offset_y = x - centre_x[..., None], y - centre_y[..., None]
    cell = 1 / (12 * short**2)
    xx = (across * offset_x**2).sum(-1) + cell
    yy = (down * offset_y**2).sum(-1) + cell
    xy = torch.einsum("...hw,...h,...w->...", weights, offset_y, offset_x)
    covariance = torch.stack([xx, xy, xy, yy], -1).unflatten(-1, (2, 2))
    return torch.stack([centre_x, centre_y], -1), covariance, covariance / (xx + yy)[..., None, None]


def _zones(
    instances: tuple[Instance, ...], height: int, width: int, looseness: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """-> coverage and parts (I, h, w), attract (h, w), the share of each cell beyond every instance's band (h, w)."""
    covers, distances, halves, n = coverage_and_distance(instances, height, width)
    peaks = covers.max((1, 2), keepdims=True)
    attract = (covers / peaks).max(0)
    beyond = (distances > looseness * (BAND + halves[:, None, None])).all(0)
    nearest = np.arange(len(distances))[:, None, None] == distances.argmin(0)
    parts, far = (
        grid.reshape(*grid.shape[:-2], height, n, width, n).mean((-3, -1), dtype=np.float32)
        for grid in (nearest, beyond)
    )
    # the band is measured against what a cell has left beside the region: a thin stroke's own cell is not "half far"
    union = np.minimum(covers.sum(0), 1)
    far = np.where(union < 1, far / np.maximum(1 - union, 1e-6), 0).clip(0, 1)
    return covers, parts, attract, far
