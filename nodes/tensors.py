"""Checks of the host's tensors at the door of a node."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..guidance import checks, raster
from ..guidance.document import MAX_INSTANCES
from ..guidance.errors import LimelightError

MASK_SIDE = 1024  # larger masks are reduced: attention is never read on a finer grid


def masks(mask: Any, name: str = "mask", empty: bool = False) -> list[np.ndarray]:
    """MASK (B, H, W) or (H, W) -> one (h, w) float32 array each, at most `MASK_SIDE` on a side.

    name: of the node's input, for errors. empty: whether masks may be empty.
    """
    if not isinstance(mask, torch.Tensor) or mask.ndim not in (2, 3) or mask.numel() == 0:
        found = f"a tensor of shape {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else checks.show(mask)
        raise LimelightError(f"{name}: found {found}; expected a MASK of shape (masks, height, width). Connect a mask.")
    batch = mask.detach().float().cpu().numpy()
    batch = batch[None] if batch.ndim == 2 else batch
    if len(batch) > MAX_INSTANCES:
        raise LimelightError(
            f"{name}: found a batch of {len(batch)} masks; expected at most {MAX_INSTANCES}. Use fewer masks."
        )
    checked = []
    for i, one in enumerate(batch):
        which = f"{name} {i + 1} of {len(batch)}" if len(batch) > 1 else name
        if not np.isfinite(one).all():
            raise LimelightError(f"{which}: found values that are not numbers (NaN or infinite); expected 0 to 1.")
        one = np.clip(one, 0, 1)
        one = raster.resample(one, min(one.shape[0], MASK_SIDE), min(one.shape[1], MASK_SIDE))
        if not empty and one.max() < 0.5 / 255:
            raise LimelightError(
                f"{which}: found an empty mask (nothing is white); expected a region. Paint one, or check whether the "
                "image really has a transparent part."
            )
        checked.append(one)
    return checked


def rgb(image: Any) -> torch.Tensor:
    """IMAGE (B, H, W, C) with 1, 3 or 4 channels -> (B, H, W, 3) float32; transparency is dropped."""
    wanted = isinstance(image, torch.Tensor) and image.ndim == 4 and image.numel() and image.shape[-1] in (1, 3, 4)
    if not wanted:
        found = f"a tensor of shape {tuple(image.shape)}" if isinstance(image, torch.Tensor) else checks.show(image)
        raise LimelightError(f"image: found {found}; expected an IMAGE of shape (images, height, width, 3).")
    image = image.detach().float()
    return image[..., :3] if image.shape[-1] > 1 else image.expand(-1, -1, -1, 3)


def batch(pictures: list[np.ndarray]) -> torch.Tensor:
    """(h, w, 3) arrays of one size -> IMAGE (B, h, w, 3) float32."""
    return torch.from_numpy(np.stack(pictures).astype(np.float32))
