"""One-step saliency consistency: does the picture that the model believes in draw attention where the hint says?

From the model's output follows an estimate of the clean latent; it is decoded, a predictor looks at it, and its density
P is compared with the wanted one T, the normalised map: KL(T || P), in nats. The idea is ControlNet++'s (Li et al.,
ECCV 2024). Of much noise the estimate is only a blur, so samples count by the clean latent's share of the variance,
abar = a^2, from `LEAST` (0) to no noise (1).
"""

from __future__ import annotations

import torch

from ..guidance.saliency.decoders import reduced
from ..models.saliency import SaliencyNetwork, resize
from .base import Base

LEAST = 0.4  # of abar: below it a sample is not looked at


def chosen(base: Base, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Times (B,) on the CPU -> numbers of the samples that are looked at, and their weights; on the CPU, so that nobody
    has to wait for the device."""
    signal = base.level(t)[0].flatten().square()
    numbers = (signal > LEAST).nonzero().flatten()
    return numbers, (signal[numbers] - LEAST) / (1 - LEAST)


def divergence(base: Base, predictor: SaliencyNetwork, clean: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Estimated clean latents (B, C, h, w) and wanted maps (B, 1, H, W) -> KL(T || P), (B,). A gradient goes through to
    the latents."""
    with torch.autocast(clean.device.type, enabled=False):
        pictures = base.decode(reduced(clean.float()))
        found = predictor.log_density(pictures)
        wanted = resize(maps[:, 0].float(), *found.shape[-2:]).clamp(min=0)
        wanted = wanted / wanted.sum((1, 2), keepdim=True).clamp(min=1e-8)
        return (wanted * (wanted.clamp(min=1e-12).log() - found)).sum((1, 2))
