"""Attention retouch: light, colour and sharpness of a finished picture, changed inside regions to draw the eye or not.

What is changed are three smooth fields, bounded, on a coarse grid: exposure, saturation, and detail (sharper above 0,
blurred below). A few steps of Adam find them, against a differentiable predictor P of where people look:

    -log(P in attract) - log(1 - P in suppress) + EFFORT * mean field^2 + UNEVEN * mean (field - next cell's)^2

The last two leave a place as it is unless a change there gains something, and make changes gradual: without them the
ground is full of blotches. The fields are found on a reduced picture and applied to the whole one, so that the result
has its full detail. Layout and things stay as they are: what GazeFusion (TAP 21(4), 2024) shows as another attention
under the same layout, for one picture and without a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import LimelightError
from .guidance import augmented, blurred

SIDE = 384  # pixels of the longer side that fields are found on
CELLS = 8  # of the fields' grid, along the longer side
RATE = 0.15  # of Adam; the fields are tanh of what it changes
EFFORT, UNEVEN = 0.4, 2.0
GAMMA = 2.2  # light is the value to this power
LUMA = 0.2126, 0.7152, 0.0722
FINE = 0.006  # standard deviation that sharpening works at, in shares of the short side
LEAST = 1e-4  # of a share, so that its logarithm is finite


@dataclass(frozen=True)
class Amounts:
    """Bounds of the fields. exposure: in stops, up or down. saturation: share by which colours may get stronger or
    weaker. sharpness: share of the fine detail that may be added. blur: standard deviation where it is strongest, in
    shares of the short side."""

    exposure: float = 0.6
    saturation: float = 0.6
    sharpness: float = 1.0
    blur: float = 0.012

    def times(self, factor: float) -> Amounts:
        return Amounts(*(factor * bound for bound in (self.exposure, self.saturation, self.sharpness, self.blur)))


def retouch(
    image: torch.Tensor,
    network: Any,
    attract: torch.Tensor | None,
    suppress: torch.Tensor | None,
    amounts: Amounts,
    steps: int = 30,
    feather: float = 0.03,
    scale: float = 0.5,
) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1] -> the same, retouched; what is outside both regions keeps its very bits.

    attract, suppress: (1, H, W) in [0, 1] or None. feather: how far inside a region's edge changes fade in, standard
    deviation in shares of the short side. scale: how large the picture appears to the viewer (see `SaliencyNetwork`).
    The same input gives the same output. Works in inference mode too.
    """
    import comfy.model_management

    regions = [mask for mask in (attract, suppress) if mask is not None]
    weight = torch.stack(regions).amax(0)[:, None]
    if amounts == Amounts(0, 0, 0, 0) or not weight.any():
        return image
    with torch.inference_mode(False), torch.enable_grad():
        original, weight = image.detach().clone(), faded(weight.detach().clone(), feather)
        small, thin = _reduced(original), _reduced(weight)
        maps = [
            None if mask is None else _reduced(mask.detach().clone()[:, None])[:, 0] for mask in (attract, suppress)
        ]
        rows, columns = (max(2, round(CELLS * side / max(small.shape[2:]))) for side in small.shape[2:])
        values = torch.zeros(1, 3, rows, columns, device=small.device, requires_grad=True)
        adam = torch.optim.Adam([values], lr=RATE)
        for i in range(steps):
            comfy.model_management.throw_exception_if_processing_interrupted()
            fields = values.tanh()
            density = network.log_density(augmented(edited(small, fields, thin, amounts), i), scale).exp()
            cost = _roughness(fields) - _logarithms(density, *maps)
            adam.zero_grad()
            cost.backward()
            if not values.grad.isfinite().all():
                raise LimelightError("predictor: its gradient has values that are not numbers. Use another one.")
            adam.step()
        with torch.no_grad():
            return torch.where(weight > 0, edited(original, values.tanh(), weight, amounts), original)


def edited(picture: torch.Tensor, fields: torch.Tensor, weight: torch.Tensor, amounts: Amounts) -> torch.Tensor:
    """(B, 3, H, W) with fields (B, 3, rows, columns) in [-1, 1] applied, as strongly as weight (B, 1, H, W) says."""
    size, short = picture.shape[-2:], min(picture.shape[-2:])
    exposure, saturation, detail = (weight * F.interpolate(fields, size, mode="bicubic").clamp(-1, 1)).split(1, 1)
    fine = picture - blurred(picture, FINE * short)
    soft = blurred(picture, amounts.blur * short) - picture
    nothing = torch.zeros_like(detail)  # `maximum` has half a gradient at 0, to either side; `clamp` has none
    picture = picture + amounts.sharpness * torch.maximum(detail, nothing) * fine
    picture = picture + torch.maximum(-detail, nothing) * soft
    luma = (picture * torch.tensor(LUMA).to(picture)[:, None, None]).sum(1, keepdim=True)
    picture = luma + (picture - luma) * (1 + amounts.saturation * saturation)
    picture = picture * torch.exp2(amounts.exposure * exposure / GAMMA)
    return picture + (picture.clamp(0, 1) - picture).detach()  # what is clipped still passes its gradient on


def faded(weight: torch.Tensor, feather: float) -> torch.Tensor:
    """(B, 1, H, W) -> the same, rising from 0 inwards from the edges of what is white; 0 where it was 0."""
    soft = blurred(weight, feather * min(weight.shape[-2:]))
    return weight * (2 * soft - 1).clamp(0, 1) if feather > 0 else weight


def shares(predictor: Any, image: torch.Tensor, masks: dict[str, torch.Tensor], scale: float) -> dict[str, float]:
    """Share of the attention in each (1, H, W) region of image (1, 3, H, W)."""
    saliency = predictor.predict(image.movedim(1, -1).float().clamp(0, 1).cpu(), scale)[0]
    density = saliency / saliency.sum().clamp_min(1e-12)
    return {name: float((density * mask[0].cpu()).sum()) for name, mask in masks.items()}


def _roughness(fields: torch.Tensor) -> torch.Tensor:
    steps = [fields.diff(dim=axis).square().mean() for axis in (2, 3)]
    return EFFORT * fields.square().mean() + UNEVEN * sum(steps)


def _logarithms(density: torch.Tensor, attract: torch.Tensor | None, suppress: torch.Tensor | None) -> torch.Tensor:
    """log(P in attract) + log(1 - P in suppress), of a density (1, h, w)."""
    total = torch.zeros((), device=density.device)
    for mask, wanted in ((attract, True), (suppress, False)):
        if mask is not None:
            there = F.interpolate(mask[:, None], density.shape[-2:], mode="bilinear", antialias=True)[:, 0]
            share = (density * there).sum()
            total = total + (share if wanted else 1 - share).clamp_min(LEAST).log()
    return total


def _reduced(picture: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) with at most `SIDE` pixels on a side."""
    shrink = SIDE / max(picture.shape[-2:])
    size = [max(1, round(side * shrink)) for side in picture.shape[-2:]]
    return picture if shrink >= 1 else F.interpolate(picture, size, mode="bilinear", antialias=True)
