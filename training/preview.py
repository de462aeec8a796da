"""Sampling for validation sheets: DDIM with guidance, for every kind of prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from . import noise
from .base import Base

STEPS, SCALE = 30, 7.5

Predict = Callable[[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]
"""(noisy latents, times (B,), text tensors) -> the model's output."""


def sample(
    base: Base,
    start: torch.Tensor,
    text: dict[str, torch.Tensor],
    empty: dict[str, torch.Tensor],
    predict: Predict,
    steps: int = STEPS,
    scale: float = SCALE,
) -> torch.Tensor:
    """Standard normal latents (B, C, h, w) -> clean ones. DDIM (Song et al. 2021) without added noise.

    text, empty: of the prompts and of the empty prompt. scale: of the classifier-free guidance.
    """
    times = torch.linspace(base.times - 1, 0, steps + 1).round().long()
    z = start
    for now, then in zip(times[:-1], times[1:], strict=True):
        t, after = (one.expand(len(z)).to(z.device) for one in (now, then))
        output = predict(z, t, text)
        if scale != 1:
            plain = predict(z, t, empty)
            output = plain + scale * (output - plain)
        level = base.level(t)
        clean = noise.clean_estimate(z, output.float(), level, base.prediction)
        if then == times[-1]:
            return clean
        rest = (z - level[0] * clean) / level[1]
        z = noise.add_noise(clean, rest, base.level(after))
    return z


def images(pictures: torch.Tensor) -> list[np.ndarray]:
    """(B, 3, H, W) in [0, 1] -> uint8 (H, W, 3) each."""
    bright = (pictures.detach().float().clamp(0, 1) * 255).round().byte()
    return list(bright.movedim(1, -1).cpu().numpy())


def row(cells: Sequence[np.ndarray]) -> Image.Image:
    """uint8 (H, W, 3) or (H, W) each, of one height -> side by side."""
    wide = [np.repeat(cell[..., None], 3, 2) if cell.ndim == 2 else cell for cell in cells]
    return Image.fromarray(np.concatenate(wide, 1))


def sheet(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows one below the other."""
    made = Image.new("RGB", (max(one.width for one in rows), sum(one.height for one in rows)))
    top = 0
    for one in rows:
        made.paste(one, (0, top))
        top += one.height
    return made
