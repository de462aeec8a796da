"""Runs of the host's sampler with a negative prompt of one's own, for GLIGEN's tests."""

from __future__ import annotations

import torch
from guided_runs import conditioning, noise


def sample(model, positive, negative=None, x=None, sampler="euler", steps=3, cfg=3.0) -> torch.Tensor:
    import comfy.sample

    x = noise(1, 4, 16, 16) if x is None else x
    negative = conditioning(seed=9) if negative is None else negative
    with torch.inference_mode():
        latent = torch.zeros_like(x)
        return comfy.sample.sample(
            model, x, steps, cfg, sampler, "normal", positive, negative, latent, seed=0, disable_pbar=True
        ).clone()


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(b.isfinite().all()) and (a - b).abs().max() > 1e-3 * a.abs().max()
