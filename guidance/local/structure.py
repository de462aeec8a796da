"""Structure of a reference inside a region, without an adapter: predictions are moved to the reference's edges.

At each call of the model in a window of the schedule, its predicted clean latent D takes a few steps down

    mean over scales s of  1/2 sum over cells, channels of M |S_s(D) - S_s(R)|^2

with R the reference latent, M the region and S_s a Sobel filter at scale s. This is the edge distance that
Domingo-Gregorio and Ruiz-Hidalgo train an adapter with (arXiv 2602.01991), here minimised over the prediction itself:
nothing is propagated through the model. S is the gradient's two components, or its magnitude alone.

The change is bounded: only cells of the region move, and by no more than `REACH` standard deviations of D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .. import nudge
from ..errors import LimelightError
from ..regions import raster
from .coverage import feathered

KEY = "limelight_local_structure"
SIGNED, MAGNITUDE = "signed", "magnitude"
REACH = 1.5  # root mean square of a change over the region at strength 1, in the prediction's standard deviations
START, END = 0.74, 1.0  # of the noise schedule: by then, what is outside has been decided and stays
FEATHER = 16.0  # pixels
STEP = 0.9  # of one descent; the loss has curvature 1 at most, except at the image's border, where it is below 2
ASPECT = 0.02  # difference of aspect ratios that the rounding of sides to whole cells explains, beside one cell
EVEN = 1e-4  # spread of a reference latent that shows nothing


@dataclass(frozen=True)
class Steps:
    """How a prediction is moved. strength: 0 to 2, of the change and its bound. gradients: SIGNED, with colours and
    brightness across an edge, or MAGNITUDE, where edges are and how strong. scales: 1 to 4, each twice as coarse as the
    one before. iterations: descents for each call of the model."""

    strength: float = 1.0
    gradients: str = SIGNED
    scales: int = 3
    iterations: int = 10


def sobel(latents: torch.Tensor, scale: int = 1) -> torch.Tensor:
    """(B, C, h, w) -> (B, 2, C, h, w): differences across and down, as means over `scale` cells, by channel.

    Weights of one component sum to 1 in absolute value. What is at the border goes on beyond it.
    """
    # made on the device: a copy from here would have to wait for what it does
    slope = torch.arange(-1, 2, device=latents.device, dtype=latents.dtype)
    kernel = (2 - slope.abs())[:, None] * slope / 8  # rows of 1, 2, 1 times -1, 0, 1
    flat = latents.flatten(0, 1)[:, None]
    if scale > 1:
        before = (scale - 1) // 2
        padded = F.pad(flat, [before, scale - 1 - before] * 2, mode="replicate")
        flat = F.avg_pool2d(padded, scale, stride=1)
    flat = F.pad(flat, [scale] * 4, mode="replicate")
    found = F.conv2d(flat, torch.stack([kernel, kernel.T])[:, None], dilation=scale)
    return found.unflatten(0, latents.shape[:2]).transpose(1, 2)


def edges(latents: torch.Tensor, scale: int, gradients: str) -> torch.Tensor:
    """What is compared: (B, 2 or 1, C, h, w)."""
    found = sobel(latents, scale)
    return found if gradients == SIGNED else (found.square().sum(1, keepdim=True) + 1e-6).sqrt()


def distance(latents: torch.Tensor, wanted: list[torch.Tensor], region: torch.Tensor, gradients: str) -> torch.Tensor:
    """(B,): the masked distance of latents (B, C, h, w) from the edges of the reference, one tensor for each scale.

    region: (1 or B, 1, h, w). It multiplies what has been filtered, so its own border is no edge.
    """
    total = torch.zeros(len(latents), device=latents.device)
    for level, reference in enumerate(wanted):
        off = edges(latents, 2**level, gradients) - reference
        total = total + (off.square() * region[:, None]).sum((1, 2, 3, 4)) / 2
    return total / len(wanted)


def steer(
    predicted: torch.Tensor,
    reference: torch.Tensor,
    region: torch.Tensor,
    steps: Steps,
    mask: torch.Tensor | None = None,
    known: torch.Tensor | None = None,
) -> torch.Tensor:
    """Moves predictions (B, C, h, w). -> the same, moved; ordinary tensors, also in inference mode.

    reference: (1 or B, C, h, w), of the model's latent space. region: (1 or B, 1, h, w) in [0, 1]; cells where it is 0
    stay as they are, bit for bit. mask: (B, 1 or C, h, w), 1 where the sampler uses the prediction; `known` is there
    elsewhere. Each image by itself: a batch is moved as its images would be alone.
    """
    import comfy.model_management

    def own(value: torch.Tensor) -> torch.Tensor:
        return value.detach().clone().to(predicted.device, torch.float32)

    with torch.inference_mode(False), torch.enable_grad():
        latents, reference, region = own(predicted), own(reference), own(region)
        mask, known = None if mask is None else own(mask), None if known is None else own(known)
        free = region.expand(len(latents), -1, -1, -1)
        free = free if mask is None else free * mask.mean(1, keepdim=True)
        wanted = [edges(reference, 2**level, steps.gradients) for level in range(steps.scales)]
        change = torch.zeros_like(latents)
        for _ in range(steps.iterations):
            comfy.model_management.throw_exception_if_processing_interrupted()
            seen = (latents + change).requires_grad_()
            shown = seen if known is None or mask is None else seen * mask + known * (1 - mask)
            (slope,) = torch.autograd.grad(distance(shown, wanted, region, steps.gradients).sum(), seen)
            change = change - STEP * slope * free
        change = steps.strength * change
        # never further than the bound; nothing where a prediction is not finite
        length = (change.square().sum((1, 2, 3)) / (free.sum((1, 2, 3)) * latents.shape[1]).clamp_min(1e-6)).sqrt()
        bound = steps.strength * REACH * latents.std((1, 2, 3))
        factor = torch.where(length.isfinite(), (bound / length.clamp_min(1e-12)).clamp(max=1), 0)
        change = torch.nan_to_num(change) * factor[:, None, None, None]
    return torch.where(free > 0, predicted + change.to(predicted), predicted)


def attach(
    model: Any,
    reference: torch.Tensor,
    masks: np.ndarray,
    steps: Steps,
    start_percent: float = START,
    end_percent: float = END,
    feather: float = FEATHER,
) -> Any:
    """MODEL -> a clone that is guided; strength 0: a plain clone, bit-identical in what it samples.

    reference: samples of a LATENT, (1 or B, C, h, w) or (1 or B, C, 1, h, w), as the VAE gives them. masks: (1 or B, H,
    W) in [0, 1], of any size. start_percent, end_percent: the guided part of the noise schedule, 0 = pure noise, 1 =
    the finished image. feather: pixels of the image over which the region fades in at its edge, inwards. Raises
    LimelightError for a reference of another latent space; one that does not fit the run, or a mask that does not, is
    found before the first step.
    """
    if steps.strength == 0:
        return model.clone()
    reference = readied(reference, model.model)
    feather = feather / getattr(model.model.latent_format, "spacial_downscale_ratio", 8)  # in cells of the latent
    fitted: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}  # by (height, width) of the run's latents

    def fit(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        if (height, width) not in fitted:
            fitted.clear()
            fitted[height, width] = resized(reference, height, width), coverage(masks, height, width, feather)
        return fitted[height, width]

    def check(noise: torch.Tensor) -> None:
        nudge.check_image(noise, "local structure")
        check_fit(reference, masks, noise)
        fit(*noise.shape[-2:])

    def move(predicted: torch.Tensor, mask: torch.Tensor | None, known: torch.Tensor | None) -> torch.Tensor:
        return steer(predicted, *fit(*predicted.shape[-2:]), steps, mask, known)

    return nudge.attach(model, KEY, "local structure", move, check, start_percent, end_percent)


def readied(reference: torch.Tensor, model: Any) -> torch.Tensor:
    """LATENT samples -> (B, C, h, w), float32, scaled as the model's own latents."""
    channels = model.latent_format.latent_channels
    nudge.check_image(reference, "local structure", "reference")
    if reference.shape[1] != channels:
        raise LimelightError(
            f"reference: found a latent of {reference.shape[1]} channels; the model's have {channels}. Encode the "
            "picture with the VAE of this model."
        )
    if not reference.isfinite().all() or (reference.float().flatten(1).std(1) < EVEN).any():
        raise LimelightError(
            "reference: found an empty latent, the same everywhere, or one with values that are not numbers; expected "
            "a picture. Connect VAE Encode."
        )
    with torch.inference_mode(False), torch.no_grad():
        reference = reference.detach().clone().float().cpu()
        video = model.latent_format.latent_dimensions == 3  # formats of such models scale frames
        reference = model.process_latent_in(reference[:, :, None] if video and reference.ndim == 4 else reference)
    return reference[:, :, 0] if reference.ndim == 5 else reference


def check_fit(reference: torch.Tensor, masks: np.ndarray, noise: torch.Tensor) -> None:
    """Raises LimelightError for a reference or masks that are not as many as the images, or not of their aspect."""
    height, width = noise.shape[-2:]
    for name, given, unit in (("reference", reference, "cells"), ("mask", masks, "pixels")):
        if len(given) not in (1, len(noise)):
            raise LimelightError(
                f"{name}: found {len(given)} for {len(noise)} images; expected one, or one for each image."
            )
        if not same_aspect(given.shape[-2:], (height, width)):
            raise LimelightError(
                f"{name}: found {given.shape[-1]} x {given.shape[-2]} {unit}; the image's latent has {width} x "
                f"{height} cells, of another aspect ratio. Crop or scale the {name}'s picture to the image's shape."
            )


def same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether (h, w) may show the same frame as a latent (height, width), whose sides are whole cells."""
    (h, w), (height, width) = size, other
    return abs(h * width - w * height) <= max(ASPECT * h * width, h, w)  # or one cell


def resized(reference: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, C, h, w) on another grid: means over areas where it gets smaller, bilinear where it gets larger."""
    if reference.shape[-2:] == (height, width):
        return reference
    with torch.inference_mode(False), torch.no_grad():
        return F.interpolate(reference, (height, width), mode="bilinear", antialias=True)


def coverage(masks: np.ndarray, height: int, width: int, feather: float = 0.0) -> torch.Tensor:
    """(B, H, W) in [0, 1] -> (B, 1, h, w): the share of each cell that the mask covers, exactly.

    feather: cells over which masks fade in at their edge, inwards, slowly at first: a cell at the edge compares with
    what is outside, and decoders carry what it shows outside. What is thinner gets fainter, and never vanishes.
    """
    with torch.inference_mode(False):
        given = torch.from_numpy(masks)
        ramp = feathered((given > 0).float(), feather * masks.shape[2] / width)
        faded = (given * ramp.square()).numpy()
        return torch.from_numpy(np.stack([raster.resample(mask, height, width) for mask in faded]))[:, None]
