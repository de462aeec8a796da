"""Growing thin strokes into the objects that form along them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from ..regions.targets import Target

REGIONS = "limelight_regions"
"""Key in the transformer options of every model call behind a guided step: by id (uuid) of a conditioning, by index of
a highlight, its region (B, h, w). Attention bias and GLIGEN's boxes follow it."""
DIFFUSE = 0.5  # contrast of attention, own - far to own, below which it tells nothing apart
ROUNDS = 3  # of the walk: an object is a few cells across at the sizes where self-attention is captured


def grown(affinity: torch.Tensor, target: Target) -> torch.Tensor:
    """What has become part of a highlight's object, by the model's own self-attention.

    affinity: (B, h * w, h * w), rows sum to 1: how much each cell looks at every other. -> (B, h, w) in [0, 1], at
    least `attract`. A few rounds of label propagation from the region R_0 = attract:

        R_{k+1} = attract + neutral * (A R_k - far) / (own - far), clipped to [0, 1]
        own, far = the means of A R_k over attract and over suppress

    so that a cell of the free band joins when it looks at the object as the region's own cells do and not as the rest
    of the canvas does. While attention is still diffuse nothing grows. A region never leaves its band and never enters
    another highlight. Ours, in place of the published growth by the nearest frontier cells.
    """
    attract, neutral, suppress = (g.flatten().to(affinity) for g in (target.attract, target.neutral, target.suppress))
    region = attract.expand(affinity.shape[0], -1)
    for _ in range(ROUNDS):
        looks = torch.einsum("bnm,bm->bn", affinity, region)
        own, far = ((looks * zone).sum(-1, keepdim=True) / zone.sum().clamp_min(1e-6) for zone in (attract, suppress))
        contrast = (own - far).clamp_min(DIFFUSE * own.clamp_min(1e-6))
        region = attract + neutral * ((looks - far) / contrast).clamp(0, 1)
    return region.unflatten(-1, target.attract.shape).clamp(0, 1)


def with_region(target: Target, region: torch.Tensor) -> Target:
    """The target with a grown region (B, h', w') of any grid: what has joined attracts too. Its attract and neutral
    are (B, h, w)."""
    region = F.interpolate(region[:, None], target.attract.shape, mode="area")[:, 0]
    attract = torch.maximum(target.attract, torch.minimum(region, 1 - target.suppress))
    return replace(target, attract=attract, neutral=1 - target.suppress - attract)
