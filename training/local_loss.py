"""Losses of a local adapter: pure functions of tensors, in float32.

Domingo-Gregorio and Ruiz-Hidalgo (arXiv 2602.01991) train with

    || e' - e ||^2  +  w(t) mean_{c,h,w} [ M (S(x') - S(x)) ]^2

where x' is the clean latent that the model's output stands for (`noise.clean_estimate`, for every kind of prediction),
S the Sobel filter's magnitude in each channel, and M the region on the latent's grid, which multiplies what has been
filtered, so that its own border is no edge. What is new here: means over the region instead of over the latent, the
gradient's two components instead of its magnitude, weights by the signal-to-noise ratio, and a loss of independence
outside of the region.
"""

from __future__ import annotations

import torch

from ..guidance.local.structure import MAGNITUDE, SIGNED, edges
from . import noise

GRADIENTS = SIGNED, MAGNITUDE
CONSTANT, LATE, NOISE, MIN_SNR = WEIGHTS = "constant", "late", "noise", "min-snr"
SIGNAL = 1e-3  # of abar: below it an output says nothing about the clean latent. SD's least is 0.0047
ONE_CELL = 1.0  # least region that a mean is taken over, in cells


def clean_estimate(noisy: torch.Tensor, output: torch.Tensor, level: noise.Strengths, prediction: str) -> torch.Tensor:
    """As `noise.clean_estimate`, but finite also where nothing of the clean latent is left (zero terminal SNR, under
    which an estimate of the noise would be divided by 0): there a^2 counts as `SIGNAL`."""
    a, s = level
    return noise.clean_estimate(noisy, output, (a.clamp(min=SIGNAL**0.5), s), prediction)


def edge_loss(
    estimate: torch.Tensor, clean: torch.Tensor, region: torch.Tensor, gradients: str = SIGNED, by_area: bool = True
) -> torch.Tensor:
    """-> (B,): mean of [M (S(x') - S(x))]^2 over channels and cells, or by area, over the region: sum / (C sum M^2).

    estimate, clean: (B, C, h, w). region: (B, 1, h, w) in [0, 1]. Of a region without a cell: 0. gradients: MAGNITUDE,
    sqrt(gx^2 + gy^2 + 1e-6), or SIGNED, the sum of both components' squares. The filters' weights sum to 1 in absolute
    value for each direction of the gradient, as kornia's normalised ones do; beyond the border goes on what is there.

    By area, a small region weighs as much as a large one; by the mean over everything, as the published code has it, a
    box of a twentieth weighs six times less than one of three tenths. SIGNED has the same optimum as the mean squared
    error, the mean of all that is possible; MAGNITUDE, at much noise, asks for edges that are sharper than that mean.
    """
    off = edges(estimate, 1, gradients) - edges(clean, 1, gradients)
    off = (off * region[:, None]).square().sum(1)  # (B, C, h, w)
    if not by_area:
        return off.mean((1, 2, 3))
    return off.mean(1).sum((1, 2)) / region.square().sum((1, 2, 3)).clamp(min=ONE_CELL)


def edge_weights(level: noise.Strengths, late: torch.Tensor, kind: str, gamma: float = 5.0) -> torch.Tensor:
    """-> (B,): w(t) without its factor lambda. late: (B,) bool, times in the noisier half of the schedule.

    The published code's "constant" (1), "late" (`step_unit`: 1 in the later half, else 0) and "noise" (`time_unit`:
    1 - abar); and "min-snr", min(SNR, gamma), which Hang et al. 2023 give for losses of the clean latent: of an
    estimate of the noise, whose error divided by the SNR is that of the clean latent, times of all kinds then have
    about their share, instead of nine tenths for the last tenth. It is 0 where abar is below `SIGNAL`.
    """
    a, s = (part.flatten() for part in level)
    if kind == CONSTANT:
        return torch.ones_like(a)
    if kind == LATE:
        return late.to(a)
    if kind == NOISE:
        return s.square()
    return noise.signal_to_noise(level).clamp(max=gamma) * (a.square() >= SIGNAL)


def outside_loss(adapted: torch.Tensor, plain: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """-> (B,): || (1 - M) (e_adapter - e_base) ||^2, mean over channels and what is outside of the region.

    adapted, plain: (B, C, h, w), outputs for the same noisy latent with the adapter and without. region: (B, 1, h, w)
    in [0, 1]. Where everything is inside: 0.
    """
    free = 1 - region
    off = ((adapted - plain) * free).square().mean(1).sum((1, 2))
    return off / free.square().sum((1, 2, 3)).clamp(min=ONE_CELL)
