"""A predictor without weights: graph-based visual saliency, differentiable. A fallback, not a match for learned ones.

Harel, Koch and Perona, "Graph-Based Visual Saliency" (NIPS 2006). Cells of a coarse grid are the nodes of a graph. The
walk on it that prefers to go to near cells of another colour, brightness or texture is found most often where
something stands out; a second walk, drawn by what the first one found, gathers it into few places. Both walks are
reversible, so that where they end up has a closed form and needs no iteration:

    first:   w_ij = (|M_i - M_j| + e) F_ij   ->  A_i = sum_j w_ij
    second:  w_ij = A_j G_ij                 ->  S_i = A_i (G A)_i

with F and G Gaussians of the distance. The maps S of all features are added, each weighted by its squared coefficient
of variation, so that a feature with one odd spot counts more than one that is odd everywhere (the purpose of Itti's
normalisation, PAMI 1998). On the MIT300 benchmark the method has a CC of 0.48, UNISAL 0.79.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..guidance.saliency.maps import centre_bias
from .saliency import SaliencyNetwork, resize

SIDE = 256  # pixels of the longer side that features are taken from
NODES = 24  # cells of the longer side of the graph
MAX_NODES = 48
REACH_CONTRAST, REACH_GATHER = 0.15, 0.06  # of the two Gaussians, in shares of the grid's mean side
REACH_SMOOTH = 0.07  # of the coarser of the two scales that every feature is seen at
LEAST = 0.02  # e: differences far below it are noise, and say nothing
CENTRE = 0.5  # how much of the map the centre bias takes part in
ANGLES, WAVE, KERNEL = 4, 7.0, 13  # orientation filters: directions, wave length and size in pixels


class ClassicSaliency(SaliencyNetwork):
    """Graph-based saliency with a centre bias."""

    label = "classic (no weights)"
    low_accuracy = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", _filters(), persistent=False)

    def prepare(self, images: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        height, width = images.shape[-2:]
        longer = SIDE * scale / max(height, width)
        return resize(images, *(max(16, round(side * longer)) for side in (height, width)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) in [0, 1] -> (B, rows, columns), the graph's cells; each map sums to 1."""
        rows, columns = grid(*x.shape[-2:])
        near = {reach: _nearness(rows, columns, reach).to(x) for reach in (REACH_SMOOTH, REACH_CONTRAST, REACH_GATHER)}
        smooth = near[REACH_SMOOTH] / near[REACH_SMOOTH].sum(0)
        fine = resize(self._features(x), rows, columns).flatten(2)
        maps = [
            _walks(feature, near[REACH_CONTRAST], near[REACH_GATHER])
            for features in (fine, fine @ smooth)
            for feature in features.unbind(1)
        ]
        maps = torch.stack(maps, 1)
        # S sums to 1: n sum(S^2) - 1 is its variance over the square of its mean
        weights = maps.shape[2] * maps.square().sum(2, keepdim=True) - 1
        joined = (weights * maps).sum(1)
        bias = torch.from_numpy(centre_bias(rows, columns)).to(x).flatten()
        joined = joined * (1 - CENTRE + CENTRE * bias)
        return (joined / joined.sum(1, keepdim=True)).unflatten(1, (rows, columns))

    def finish(self, raw: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Enlarged smoothly, the peak at 1."""
        maps = resize(raw, height, width, mode="bicubic").clamp_(min=0)
        return maps / maps.amax((1, 2), keepdim=True)

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) -> (B, 11, h, w): brightness, red-green, blue-yellow, strength of 4 orientations, twice."""
        red, green, blue = x.unbind(1)
        gray = x.mean(1, keepdim=True)
        maps = [gray, torch.stack([red - green, (red + green) / 2 - blue], 1)]
        for part in (1, 2):
            small = gray if part == 1 else F.avg_pool2d(gray, 2)
            padded = F.pad(small, [KERNEL // 2] * 4, mode="replicate")
            even, odd = F.conv2d(padded, self.filters).chunk(2, 1)
            maps.append(resize((even.square() + odd.square() + 1e-6).sqrt(), *x.shape[-2:]))
        return torch.cat(maps, 1)


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the graph for an input of that size."""
    nodes = min(MAX_NODES, NODES * max(height, width) / SIDE)
    rows, columns = (max(4, round(nodes * side / max(height, width))) for side in (height, width))
    return rows, columns


def _walks(feature: torch.Tensor, contrast: torch.Tensor, gather: torch.Tensor) -> torch.Tensor:
    """(B, n) values of one feature -> (B, n) shares of where the second walk is found."""
    differences = ((feature[:, :, None] - feature[:, None]).square() + 1e-8).sqrt()
    first = ((differences + LEAST) * contrast).sum(2)
    first = first / first.sum(1, keepdim=True)
    second = first * (first @ gather)
    return second / second.sum(1, keepdim=True)


def _nearness(rows: int, columns: int, reach: float) -> torch.Tensor:
    """(n, n): exp(-distance^2 / 2 (reach * mean side)^2) between cells."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    cells = torch.stack([y, x], -1).flatten(0, 1).float()
    squares = (cells[:, None] - cells[None]).square().sum(2)
    return torch.exp(-squares / (2 * (reach * (rows + columns) / 2) ** 2))


def _filters() -> torch.Tensor:
    """(2 x 4, 1, 13, 13): even and odd Gabor filters without mean, by angle."""
    y, x = torch.meshgrid(*[torch.arange(KERNEL) - KERNEL // 2] * 2, indexing="ij")
    envelope = torch.exp(-(x.square() + y.square()) / (2 * (WAVE / 2.5) ** 2))
    waves = []
    for shift in (0.0, math.pi / 2):
        for i in range(ANGLES):
            angle = math.pi * i / ANGLES
            wave = torch.cos(2 * math.pi / WAVE * (x * math.cos(angle) + y * math.sin(angle)) - shift)
            one = envelope * (wave - (envelope * wave).sum() / envelope.sum())
            waves.append(one / one.abs().sum())
    return torch.stack(waves)[:, None]
