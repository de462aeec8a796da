"""What to add to attention logits: pure functions of logits and regions.

``scores``: (B, heads, N, M) logits S = q k / sqrt(d) of N cells (queries) over M keys, float32. Every term is what is
added to S before the softmax; it broadcasts to the shape of ``scores``.
"""

from __future__ import annotations

import torch

FAR = -1e4  # added to a logit: no softmax sees it, and half precision can hold it
CERTAIN = 1e-4  # shares nearer to 0 or 1 count as this near


def logits(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    """q: (B, N, C), k: (B, M, C), heads not split -> attention logits (B, heads, N, M), float32."""
    q, k = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
    return (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)


def keep_share(scores: torch.Tensor, members: torch.Tensor, floor: torch.Tensor, ceiling: torch.Tensor) -> torch.Tensor:
    """How far to move groups of keys so that each group's share of a cell's attention lies within bounds.

    With p the share of group g (the sum of softmax S over its keys), adding d to the logits of all its keys multiplies
    its odds p / (1 - p) by e^d. So

        d = max(0, logit(floor) - logit(p)) + min(0, logit(ceiling) - logit(p))

    brings p exactly into [floor, ceiling], and is zero where it is there already: what the model does right stays.
    Bounds and shares are cut at CERTAIN and 1 - CERTAIN. Our own.

    members: (..., n, M), 1 where the key belongs to the group. floor, ceiling: (..., N, n). -> d: (B, heads, N, n); the
    term is d @ members.
    """

    def odds(share: torch.Tensor) -> torch.Tensor:
        return share.clamp(CERTAIN, 1 - CERTAIN).logit()

    share = odds(scores.softmax(-1) @ members.transpose(-1, -2))
    return (odds(floor) - share).clamp(min=0) + (odds(ceiling) - share).clamp(max=0)


def value_range(scores: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """up * (max_k S - S) - down * (S - min_k S), maximum and minimum over the keys of each cell.

    1 moves a logit all the way to the largest or smallest of its row. up, down: (..., N, M).
    """
    return up * (scores.amax(-1, keepdim=True) - scores) - down * (scores - scores.amin(-1, keepdim=True))


def densediffusion(
    scores: torch.Tensor, shared: torch.Tensor, area: torch.Tensor, weight: float, time: float
) -> torch.Tensor:
    """Attention modulation of DenseDiffusion, adaptive to the range of the logits and to the area of the regions:

        R (1 - area) w t^5 (max_k S - S) - (1 - R) (1 - area) w t^5 (S - min_k S)

    shared: R (N, M) in {0, 1}: the cell lies in the region of the token, or both cells in one region. area: (N, 1), the
    share of the image that the regions of the cell cover. time: t / 1000, 1 at pure noise.
    Source: Kim et al. 2023, the authors' code (w = 1 for cross-, 0.3 for self-attention).
    """
    size = (1 - area) * weight * time**5
    return value_range(scores, shared * size, (1 - shared) * size)


def shut_out(hidden: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """Keys that a cell must not see: hidden (N, M) in [0, 1] -> log(1 - strength * hidden), and FAR instead of
    minus infinity. Bounded Attention (Dahary et al. 2024) has hidden in {0, 1} and strength 1."""
    return torch.log1p(-(strength * hidden).clamp(max=1)).clamp(min=FAR)
