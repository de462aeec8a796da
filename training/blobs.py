"""Saliency maps as a few Gaussians: people draw blobs, predictors make maps; a ControlNet should know both.

A blob is the numbers of `guidance.saliency.maps.gaussians`, in its order and units: x, y (shares of width and height),
sx, sy (standard deviations, shares of the short side), angle (degrees, clockwise on the screen), amplitude. Batched, on
any device.
"""

from __future__ import annotations

import math

import torch

from ..models.saliency import resize

NUMBERS = 6  # x, y, sx, sy, angle, amplitude
GRID = 32  # cells of the short side that blobs are fitted on
ROUNDS = 20  # of expectation and maximisation
FIRST = 0.12  # standard deviation of a blob before them, in shares of the short side
LEAST = 0.02  # of a standard deviation: no blob of one bright cell


def render(blobs: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, K, 6) -> (B, H, W): 1 - prod(1 - g), as `guidance.saliency.maps.gaussians` of blobs that attract."""
    short = min(height, width)
    x, y, sx, sy, angle, amplitude = blobs[..., None, None].unbind(2)
    across = (torch.arange(width, device=blobs.device) + 0.5) / short - x * width / short
    along = ((torch.arange(height, device=blobs.device) + 0.5) / short)[:, None] - y * height / short
    cos, sin = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
    u, v = across * cos + along * sin, along * cos - across * sin
    bumps = amplitude * torch.exp(-((u / sx).square() + (v / sy).square()) / 2)
    return 1 - (1 - bumps).prod(1)


def fit(maps: torch.Tensor, count: int) -> torch.Tensor:
    """(B, H, W) in [0, 1] -> (B, count, 6). First a mixture of Gaussians whose density is the map's, by expectation and
    maximisation; then amplitudes for which each blob covers as much of what is rendered as of the map. An empty map
    gets blobs of amplitude 0."""
    height, width = maps.shape[-2:]
    cell = max(1.0, min(height, width) / GRID)
    small = resize(maps.float(), max(1, round(height / cell)), max(1, round(width / cell)))
    rows, columns = small.shape[-2:]
    short = min(rows, columns)
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    cells = torch.stack([x, y], -1).flatten(0, 1).to(small) / short  # (N, 2)
    values = small.flatten(1)
    weights = (values / values.sum(1, keepdim=True).clamp(min=1e-8)).double()
    means, spreads, shares = _mixture(weights, cells.double(), count)

    high, low, angle = _axes(spreads)
    size = torch.tensor([columns / short, rows / short], dtype=means.dtype, device=means.device)
    peaks = shares * values.sum(1, keepdim=True) / short**2 / (2 * math.pi * high * low)
    blobs = torch.cat([means / size, torch.stack([high, low, angle, peaks.clamp(max=1)], -1)], -1).float()
    alone = blobs.clone()
    alone[..., 5] = 1
    bumps = render(alone.flatten(0, 1)[:, None], rows, columns).unflatten(0, blobs.shape[:2]).flatten(2)
    for _ in range(ROUNDS):
        made = render(blobs, rows, columns).flatten(1)
        ratio = (bumps @ values[..., None] / (bumps @ made[..., None]).clamp(min=1e-8))[..., 0]
        blobs[..., 5] = (blobs[..., 5] * ratio).clamp(0, 1)
    return blobs


def _mixture(weights: torch.Tensor, cells: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Densities (B, N) at cells (N, 2) -> means (B, K, 2), covariances (B, K, 2, 2) and shares (B, K)."""
    left, means = weights.clone(), []
    for _ in range(count):  # start at the peaks, each without those before
        found = cells[left.argmax(1)]
        means.append(found)
        near = torch.exp(-(cells[None] - found[:, None]).square().sum(-1) / (2 * (2 * FIRST) ** 2))
        left = left * (1 - near)
    mean = torch.stack(means, 1)
    unit = torch.eye(2, dtype=cells.dtype, device=cells.device)
    spread = (FIRST**2 * unit).expand(len(weights), count, 2, 2)
    share = torch.full(mean.shape[:2], 1 / count, dtype=cells.dtype, device=cells.device)
    for _ in range(ROUNDS):
        offsets = cells[None, None] - mean[:, :, None]  # (B, K, N, 2)
        distance = torch.einsum("bkni,bkij,bknj->bkn", offsets, torch.linalg.inv(spread), offsets)
        log = -distance / 2 - torch.logdet(spread)[..., None] / 2 + share.clamp(min=1e-12).log()[..., None]
        taken = log.softmax(1) * weights[:, None]
        share = taken.sum(-1)
        each = taken / share[..., None].clamp(min=1e-12)
        mean = torch.where(share[..., None] > 1e-9, each @ cells, mean)
        offsets = cells[None, None] - mean[:, :, None]
        spread = torch.einsum("bkn,bkni,bknj->bkij", each, offsets, offsets) + LEAST**2 * unit
    return mean, spread, share


def _axes(spreads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Covariances (..., 2, 2) -> standard deviations along both axes and the angle of the first, in degrees."""
    a, b, c = spreads[..., 0, 0], spreads[..., 0, 1], spreads[..., 1, 1]
    middle, half = (a + c) / 2, ((a - c).square() / 4 + b.square()).sqrt()
    angle = torch.rad2deg(torch.atan2(2 * b, a - c) / 2)
    return (middle + half).sqrt(), (middle - half).clamp(min=LEAST**2).sqrt(), angle
