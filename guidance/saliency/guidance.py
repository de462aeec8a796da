"""Saliency guidance of predictions: while sampling, move what the model predicts so that viewers would look where the
map says. `through` does it through the model, better where a gradient of the model can be had.

At each call of the model in a window of the schedule its prediction D is decoded, a predictor P of where people look
sees the picture, and D goes a few steps along the gradient of

    KL(T || P) - log(1 - sum S P)

with T the target map as a density and S the map of where nobody should look. Nothing is propagated through the model
itself: early in the schedule, where layout is decided, it takes up what has been added to its prediction and makes
something of it. A smooth change of D at every call is fine for any sampler (an impulse in one call would not be).

Against textures that only please the predictor: it sees the picture smoothed and shifted a little, differently in each
step, and the gradient is smoothed over cells of the latent. Steps are equally long whatever the gradient's size, and
all that is added to D is at most `REACH` of its standard deviations. Each call begins with what the one before it has
added: a place can stand out by being lighter or darker, red or blue, and calls that decide anew undo each other.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .. import nudge
from ..attention.autograd import frozen_weights
from ..errors import LimelightError
from .decoders import Decoder

KEY = "limelight_saliency"
REACH = 0.7  # root mean square of all that is added to a prediction at strength 1, in its standard deviations
TURN = 0.5  # of it, the length of one call's steps together
CHUNK = 4  # pictures that are decoded and looked at together
BLUR = 0.02  # of the picture that the predictor sees: standard deviation in shares of the short side
SHIFT = 0.02  # of it, in the same unit, in another direction at each step
GOLDEN = math.pi * (3 - math.sqrt(5))  # angle between two steps' directions
START, END = 0.0, 0.6  # of the noise schedule: what comes after is the model's own work
FLOOR = 1e-3  # share of the flat map in the target's density


@dataclass(frozen=True)
class Wish:
    """Where people should look and where not: (1 or B, H, W) in [0, 1]; no map in `target` or `suppress` is None."""

    target: torch.Tensor | None
    suppress: torch.Tensor | None = None

    def row(self, start: int, end: int) -> Wish:
        """Of some images of the batch."""
        maps = (self.target, self.suppress)
        return Wish(*(m if m is None or len(m) == 1 else m[start:end] for m in maps))


@dataclass(frozen=True)
class Steps:
    """How far and how something is moved. iterations: steps for each call of the model. smoothness: of the gradient,
    standard deviation in cells of the latent; through the model it has no use. scale: how large the picture appears to
    the viewer (see `SaliencyNetwork`); seen coarsely, whole things count and not their outlines, and it is faster."""

    iterations: int = 2
    strength: float = 1.0
    smoothness: float = 1.0
    scale: float = 0.5


def loss(log_density: torch.Tensor, wish: Wish) -> torch.Tensor:
    """(B, h, w) logarithm of a density -> (B,): KL(T || P) - log(1 - sum S P). 0 where P is T and nothing of it in S.

    Maps are resized to the density's grid.
    """
    total = torch.zeros(len(log_density), device=log_density.device)
    if wish.target is not None:
        target = _resized(wish.target, log_density)
        target = target + FLOOR * target.mean((1, 2), keepdim=True)
        target = target / target.sum((1, 2), keepdim=True)
        total = total + (target * (target.log() - log_density)).sum((1, 2))
    if wish.suppress is not None:
        seen = (_resized(wish.suppress, log_density) * log_density.exp()).sum((1, 2))
        total = total - (1 - seen).clamp_min(1e-3).log()
    return total


def steer(
    predicted: torch.Tensor,
    network: Any,
    decoder: Decoder,
    wish: Wish,
    steps: Steps,
    mask: torch.Tensor | None = None,
    known: torch.Tensor | None = None,
    added: torch.Tensor | None = None,
) -> torch.Tensor:
    """What to add to predictions (B, C, h, w), of their shape; ordinary tensors, also in inference mode.

    added: what has been added in the call before.

    mask: (B, 1 or C, h, w), 1 where the sampler uses the prediction; nothing is moved elsewhere, and the predictor sees
    `known` there. Each image by itself: a batch is moved as its images would be alone.
    """
    found = []
    own = frozen_weights(decoder.network) if decoder.network is not None else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), own:
        for start in range(0, len(predicted), CHUNK):
            part = slice(start, start + CHUNK)
            given = [None if v is None else v[part].detach().clone().float() for v in (mask, known, added)]
            one = predicted[part].detach().clone().float()
            found.append(_steered(one, network, decoder, wish.row(start, start + CHUNK), steps, *given))
    return torch.cat(found).to(predicted)


def _steered(
    predicted: torch.Tensor,
    network: Any,
    decoder: Decoder,
    wish: Wish,
    steps: Steps,
    mask: torch.Tensor | None,
    known: torch.Tensor | None,
    added: torch.Tensor | None,
) -> torch.Tensor:
    import comfy.model_management

    mask = torch.ones_like(predicted[:, :1]) if mask is None else mask.mean(1, keepdim=True)
    area = mask.sum((1, 2, 3)).clamp_min(1e-6) * predicted.shape[1]
    reach = REACH * steps.strength * predicted.std((1, 2, 3))
    step = TURN / steps.iterations * reach
    added = torch.zeros_like(predicted) if added is None else added
    for i in range(steps.iterations):
        comfy.model_management.throw_exception_if_processing_interrupted()
        seen = (predicted + added).requires_grad_()
        shown = seen if known is None else seen * mask + known * (1 - mask)
        picture = augmented(decoder.decode(shown), i)
        (gradient,) = torch.autograd.grad(loss(network.log_density(picture, steps.scale), wish).sum(), seen)
        gradient = blurred(gradient, steps.smoothness) * mask
        length = _length(gradient, area)
        # no gradient (a picture that the predictor is blind to), or one that is not finite: no step
        factor = torch.where(length.isfinite() & (length > 1e-12), step / length, 0)
        added = added - torch.nan_to_num(gradient) * factor[:, None, None, None]
        added = added * (reach / _length(added, area).clamp_min(1e-12)).clamp(max=1)[:, None, None, None]
    return added


def _length(values: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B,): root mean square within the mask."""
    return (values.square().sum((1, 2, 3)) / area).sqrt()


def augmented(picture: torch.Tensor, step: int) -> torch.Tensor:
    """(B, 3, H, W) -> the same within [0, 1], smoothed, and shifted in a direction of its own at each step.

    What is clipped still passes its gradient on: white can get darker again.
    """
    picture = picture + (picture.clamp(0, 1) - picture).detach()
    short = min(picture.shape[-2:])
    picture = blurred(picture, BLUR * short)
    across, down = (round(SHIFT * short * wave(GOLDEN * step)) for wave in (math.cos, math.sin))
    room = max(abs(across), abs(down))
    if not room:
        return picture
    height, width = picture.shape[-2:]
    padded = F.pad(picture, [room] * 4, mode="replicate")
    return padded[..., room + down : room + down + height, room + across : room + across + width]


def blurred(values: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, C, h, w) smoothed by a Gaussian of `sigma` cells; what is at the border goes on beyond it."""
    if sigma < 0.2:
        return values
    for axis in (2, 3):
        reach = min(math.ceil(3 * sigma), 8 * values.shape[axis])
        offsets = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
        kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
        kernel = (kernel / kernel.sum()).view(1, 1, *((-1, 1) if axis == 2 else (1, -1)))
        pad = [0, 0, reach, reach] if axis == 2 else [reach, reach, 0, 0]
        flat = F.pad(values.flatten(0, 1)[:, None], pad, mode="replicate")
        values = F.conv2d(flat, kernel).view(values.shape)
    return values


def attach(
    model: Any,
    predictor: Any,
    decoder: Decoder,
    wish: Wish,
    steps: Steps,
    start_percent: float = START,
    end_percent: float = END,
) -> Any:
    """MODEL -> a clone that is guided; strength 0: a plain clone, bit-identical in what it samples.

    predictor: a `models.saliency.Predictor`. start_percent, end_percent: the guided part of the noise schedule, 0 =
    pure noise, 1 = the finished image.
    """
    if steps.strength == 0:
        return model.clone()

    memory: dict[torch.Size, torch.Tensor] = {}  # what was added last to predictions of that shape

    def move(predicted: torch.Tensor, mask: torch.Tensor | None, known: torch.Tensor | None) -> torch.Tensor:
        before = memory.get(predicted.shape)
        added = steer(predicted, predictor.network, decoder, wish, steps, mask, known, before)
        memory[predicted.shape] = added
        return predicted + added

    return nudge.attach(
        model,
        KEY,
        "saliency",
        move,
        lambda noise: check_latent(noise, wish),
        start_percent,
        end_percent,
        load=predictor.load,  # before the host does: its weights must let gradients through
        patchers=[p for p in (predictor.patcher, decoder.patcher) if p is not None],
        memory=memory,
    )


def check_latent(noise: torch.Tensor, wish: Wish) -> None:
    """Raises LimelightError for latents that are no images, and for maps that are not as many as they."""
    nudge.check_image(noise, "saliency guidance")
    for name, maps in (("target", wish.target), ("suppress", wish.suppress)):
        if maps is not None and len(maps) not in (1, len(noise)):
            raise LimelightError(
                f"{name}: found {len(maps)} maps for {len(noise)} images; expected one, or one for each."
            )


def _resized(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(1 or B, H, W) on the grid of (B, h, w)."""
    maps = maps.to(like.device, torch.float32)[:, None]
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", antialias=True)[:, 0]
