"""The noise of diffusion training: pure functions of tensors, in float32.

A noisy latent is z = a x + s e with the clean latent x, noise e ~ N(0, 1), and the strengths (a, s) of its time: in the
variance-preserving models a = sqrt(abar_t), s = sqrt(1 - abar_t) (Ho et al. 2020), in flows a = 1 - s, s in [0, 1]
(Liu et al. 2022). A model's output is an estimate of e ("epsilon"), of a e - s x ("v_prediction", Salimans and Ho
2022), or of e - x ("flow").
"""

from __future__ import annotations

import torch

EPSILON, V, FLOW = PREDICTIONS = "epsilon", "v_prediction", "flow"

Strengths = tuple[torch.Tensor, torch.Tensor]  # a and s, each (B, 1, 1, 1)


def strengths(alphas_cumprod: torch.Tensor, t: torch.Tensor) -> Strengths:
    """abar (T,) and times (B,), whole numbers below T -> a and s."""
    share = alphas_cumprod[t].float().view(-1, 1, 1, 1)
    return share.sqrt(), (1 - share).sqrt()


def flow_strengths(s: torch.Tensor) -> Strengths:
    """(B,) in [0, 1] -> a and s of a flow."""
    s = s.float().view(-1, 1, 1, 1)
    return 1 - s, s


def add_noise(clean: torch.Tensor, noise: torch.Tensor, level: Strengths) -> torch.Tensor:
    """x and e, (B, C, h, w) -> z."""
    return level[0] * clean + level[1] * noise


def target(clean: torch.Tensor, noise: torch.Tensor, level: Strengths, prediction: str) -> torch.Tensor:
    """What the model's output has to be."""
    if prediction == EPSILON:
        return noise
    return level[0] * noise - level[1] * clean if prediction == V else noise - clean


def clean_estimate(noisy: torch.Tensor, output: torch.Tensor, level: Strengths, prediction: str) -> torch.Tensor:
    """z and the model's output -> the x that it believes in."""
    a, s = level
    if prediction == EPSILON:
        return (noisy - s * output) / a
    return a * noisy - s * output if prediction == V else noisy - s * output


def uniform_times(u: torch.Tensor, count: int) -> torch.Tensor:
    """(B,) in [0, 1) -> whole numbers below count, all alike probable."""
    return (u * count).long().clamp(max=count - 1)


def cubic_times(u: torch.Tensor, count: int) -> torch.Tensor:
    """(B,) in [0, 1) -> floor((1 - u^3) count), at most count - 1: mostly late, noisy times."""
    return ((1 - u**3) * count).long().clamp(max=count - 1)


def signal_to_noise(level: Strengths) -> torch.Tensor:
    """-> (B,): a^2 / s^2."""
    return (level[0] / level[1]).square().flatten()


def min_snr_weights(level: Strengths, gamma: float, prediction: str) -> torch.Tensor:
    """-> (B,): weights of the loss of each sample, Hang et al. 2023: min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for
    v. Flows have no such weight: 1."""
    snr = signal_to_noise(level)
    if prediction == FLOW:
        return torch.ones_like(snr)
    return snr.clamp(max=gamma) / (snr if prediction == EPSILON else snr + 1)
