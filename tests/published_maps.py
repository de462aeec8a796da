"""Attention maps and slow, independent evaluations of what the published losses share: float64, plain loops."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import torch

TOKENS = 12


def random_maps(h: int, w: int, *heads: int, seed: int = 0, batch: int = 2) -> torch.Tensor:
    """(B, *heads, h, w, T) probabilities."""
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(batch, *heads, h, w, TOKENS, generator=generator, dtype=torch.float64)).softmax(-1)


def random_self_maps(h: int, w: int, seed: int = 1, batch: int = 2) -> torch.Tensor:
    """(B, h, w, h * w) probabilities."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(batch, h, w, h * w, generator=generator, dtype=torch.float64)).softmax(-1)


def filled(h: int, w: int, *boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """(n, h, w) bool: boxes (x0, y0, x1, y1), ends exclusive."""
    masks = torch.zeros(len(boxes), h, w, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def scene_of(*highlights: tuple, latent: tuple[int, int] = (16, 16), index: int = 0) -> SimpleNamespace:
    """Stands in for a Scene: highlights are (tokens, box, ...) in fractions; each box is one object."""

    def targets(height: int, width: int, device=None) -> list[SimpleNamespace]:
        made = []
        for i, (tokens, *boxes) in enumerate(highlights):
            cells = [
                (round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height))
                for x0, y0, x1, y1 in boxes
            ]
            made.append(
                SimpleNamespace(tokens=tokens, instances=filled(height, width, *cells).float(), index=i, strength=1.0)
            )
        return made

    items = [
        {"phrase": "x", "instances": [{"shapes": [{"type": "box", "box": list(box)}]} for box in boxes]}
        for _, *boxes in highlights
    ]
    return SimpleNamespace(
        targets=targets,
        size=latent,
        latent=latent,
        crop=None,
        bound={"highlights": items},
        strengths=[1.0] * len(items),
    )


def slow_sharpened(maps: np.ndarray) -> np.ndarray:
    """(h, w, T) -> (h, w, T)."""
    h, w, tokens = maps.shape
    a = np.zeros_like(maps)
    for y in range(h):
        for x in range(w):
            e = [math.exp(100 * maps[y, x, t]) for t in range(1, tokens - 1)]
            for t in range(1, tokens - 1):
                a[y, x, t] = e[t - 1] / sum(e)
    kernel = {-1: math.exp(-1), 0: 1.0, 1: math.exp(-1)}
    norm = sum(kernel.values()) ** 2

    def mirror(i: int, n: int) -> int:
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    out = np.zeros_like(a)
    for y in range(h):
        for x in range(w):
            for dy in kernel:
                for dx in kernel:
                    out[y, x] += kernel[dy] * kernel[dx] / norm * a[mirror(y + dy, h), mirror(x + dx, w)]
    return out


def slow_bilinear(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of (h, w), pixel centres aligned, edges repeated, no averaging."""
    h, w = grid.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = grid[y0, x0] * (1 - (x - x0)) + grid[y0, x1] * (x - x0)
            low = grid[y1, x0] * (1 - (x - x0)) + grid[y1, x1] * (x - x0)
            out[i, j] = top * (1 - (y - y0)) + low * (y - y0)
    return out
