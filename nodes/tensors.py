"""Checks of the host's tensors at the door of a node."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.expansion import composite, place
from ..guidance.regions import raster
from ..guidance.regions.document import MAX_INSTANCES

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


def saliency(maps: Any, name: str = "saliency", flat: bool = True) -> np.ndarray:
    """MASK (B, H, W) or (H, W), or IMAGE (B, H, W, C) of grays, as saliency maps: (B, H, W) float32 in [0, 1].

    name: of the node's input, for errors. flat: whether a map may be the same everywhere.
    """
    if not isinstance(maps, torch.Tensor) or maps.ndim not in (2, 3, 4) or maps.numel() == 0:
        found = f"a tensor of shape {tuple(maps.shape)}" if isinstance(maps, torch.Tensor) else checks.show(maps)
        raise LimelightError(f"{name}: found {found}; expected a MASK of shape (maps, height, width). Connect a map.")
    maps = maps.detach().float()
    maps = maps[..., :3].mean(3) if maps.ndim == 4 else maps
    read = (maps[None] if maps.ndim == 2 else maps).cpu().numpy()
    if not np.isfinite(read).all():
        raise LimelightError(f"{name}: found values that are not numbers (NaN or infinite); expected 0 to 1.")
    if not flat and (read.min((1, 2)) == read.max((1, 2))).any():
        raise LimelightError(
            f"{name}: found a flat map, the same value everywhere, which says nothing about where to look; expected "
            "places that are brighter than others."
        )
    return np.clip(read, 0, 1)


def pair(batch: np.ndarray, other: np.ndarray, names: str) -> tuple[np.ndarray, np.ndarray]:
    """Two batches of equal length, one of them repeated if it holds a single map. names: both inputs', for errors."""
    count = max(len(batch), len(other))
    if {len(batch), len(other)} - {1, count}:
        raise LimelightError(
            f"{names}: found {len(batch)} and {len(other)} in the batches; expected the same number, or one for all."
        )
    return np.repeat(batch, count // len(batch), 0), np.repeat(other, count // len(other), 0)


def rgb(image: Any, name: str = "image") -> torch.Tensor:
    """IMAGE (B, H, W, C) with 1, 3 or 4 channels -> (B, H, W, 3) float32; transparency is dropped."""
    wanted = isinstance(image, torch.Tensor) and image.ndim == 4 and image.numel() and image.shape[-1] in (1, 3, 4)
    if not wanted:
        found = f"a tensor of shape {tuple(image.shape)}" if isinstance(image, torch.Tensor) else checks.show(image)
        raise LimelightError(f"{name}: found {found}; expected an IMAGE of shape (images, height, width, 3).")
    image = image.detach().float()
    return image[..., :3] if image.shape[-1] > 1 else image.expand(-1, -1, -1, 3)


def pixels(image: Any, name: str = "image") -> np.ndarray:
    """`rgb` as an array whose values are all numbers."""
    colour = rgb(image, name).cpu().numpy()
    if not np.isfinite(colour).all():
        raise LimelightError(f"{name}: found values that are not numbers (NaN or infinite); expected 0 to 1.")
    return colour


def cutouts(image: Any, mask: Any, name: str = "image") -> tuple[np.ndarray, np.ndarray]:
    """IMAGE and MASK of cut-out subjects -> colours (n, H, W, 3), opacities (n, H, W), float32; white is the subject.

    Without a mask the image's own fourth channel is taken. A mask of another size is resized, of another aspect ratio
    refused; one image goes with many masks and one mask with many images. name: of the image's input, for errors.
    """
    colour = pixels(image, name)
    if mask is None:
        if image.shape[-1] != 4:
            raise LimelightError(
                f"mask: found nothing, and {name} has no transparency; expected what the subject is, white. Connect a "
                "mask, for example from a node that removes backgrounds."
            )
        mask = image[..., 3]
    alpha = saliency(mask, "mask")
    height, width = colour.shape[1:3]
    if not place.alike(alpha.shape[2:0:-1], (width, height)):
        raise LimelightError(
            f"mask: found {alpha.shape[2]} x {alpha.shape[1]} pixels for {name} of {width} x {height}; expected "
            "the same aspect ratio. Connect the mask that was made from this image."
        )
    if alpha.shape[1:] != (height, width):
        alpha = np.stack([composite.resized(one, width, height) for one in alpha])
    alpha = place.opacity(alpha)
    for i, one in enumerate(alpha, 1):
        if not one.any():
            raise LimelightError(
                f"mask {i} of {len(alpha)}: found an empty one (nothing is white); expected the subject. The mask of "
                "Load Image is white where a picture is transparent: put Invert Mask behind it."
            )
    return pair(colour, alpha, f"{name}, mask")


def subjects(before: Any, after: Any) -> tuple[np.ndarray, np.ndarray]:
    """The masks (B, H, W) of subjects before and after generation, of equal number, of the first one's size."""
    given, found = saliency(before, "before"), saliency(after, "after")
    return pair(given, same_frame(found, given, "after"), "before, after")


def same_frame(values: np.ndarray, like: np.ndarray, name: str) -> np.ndarray:
    """(B, h, w) or (B, h, w, 3) resized to the pixels of the masks (..., H, W) that show the same frame."""
    height, width = like.shape[1:3]
    if not place.alike(values.shape[2:0:-1], (width, height)):
        raise LimelightError(
            f"{name}: found {values.shape[2]} x {values.shape[1]} pixels, before has {width} x {height}; expected the "
            "same aspect ratio. Connect what belongs to the placed subject and to the picture generated around it."
        )
    if values.shape[1:3] == (height, width):
        return values
    return np.stack([composite.resized(one, width, height) for one in values])


def as_many(values: np.ndarray, like: np.ndarray, name: str) -> np.ndarray:
    """A batch with as many entries as another; a single one is repeated."""
    if len(values) not in (1, len(like)):
        raise LimelightError(
            f"{name}: found {len(values)} in the batch; expected one, or {len(like)} as of the others."
        )
    return np.repeat(values, len(like) // len(values), 0)


def batch(pictures: list[np.ndarray]) -> torch.Tensor:
    """(h, w, 3) arrays of one size -> IMAGE (B, h, w, 3) float32."""
    return torch.from_numpy(np.stack(pictures).astype(np.float32))
