"""Descending the losses in x: normalised updates with a trust region, sample by sample."""

from __future__ import annotations

from typing import Any

import torch

from .probe import Look

SHRINK, GROW = 0.5, 1.25  # of the trust radius after a step that made the loss worse / better


class Descent:
    """The updates of one run and their statistics.

    An update is -length * g / rms(g) in units of a latent of variance 1, with
    length = min(step_size * strength * radius, loss / (n rms(g))): the second is the step that would bring a linear
    loss to zero (Polyak), so that updates fade as the maps become right. g has the median 0 in every channel: what
    most cells have in common moves nothing, it tints the background. The radius of each sample falls when a step made
    its loss worse, and that step is taken back. Of a method that does not normalise, an update is
    -step_size * strength * g.

    probe: a `Probe`, or what looks as one does.
    """

    def __init__(self, probe: Any, strength: float) -> None:
        self.probe, self.method, self.strength = probe, probe.method, strength
        self.radius: torch.Tensor | None = None
        self.phrases, self._strengths = probe.phrases, probe.strengths
        self.first: list[float | None] = [None] * len(self.phrases)
        self.last: list[float | None] = [None] * len(self.phrases)
        self.steps = self.updates = self.broken = 0

    def update(self, guider, x: torch.Tensor, sigma: torch.Tensor, options: dict, mask: torch.Tensor | None):
        """What to add to x, or None. x: (B, C, H, W) or (B, C, 1, H, W); sigma: (B,); mask like x, 1 where the
        sampler may change it."""
        from comfy.model_management import throw_exception_if_processing_interrupted

        scale = latent_scale(guider.inner_model.model_sampling, float(sigma[0]))
        percent = percent_of(guider.inner_model.model_sampling, sigma)
        x, sigma = x.clone(), sigma.clone()
        mask = None if mask is None else mask.clone()
        if self.radius is None:
            self.radius = torch.ones(x.shape[0], device=x.device)
        best, best_loss, best_push = torch.zeros_like(x), None, None
        update, moved = best, False
        for iteration in range(self.method.iterations(percent)):
            throw_exception_if_processing_interrupted()
            look = self.probe.look(guider, x + update, sigma, options, percent, iteration)
            total = self._note(look)
            if look.gradient is None:
                break
            push = self._push(look, look.gradient * scale, mask)
            if best_loss is None or best_push is None or not self.method.normalise:
                best, best_loss, best_push = update, total, push
            else:
                # a sample whose highlights are all satisfied stays where it is, as it would in a run of its own
                worse = (total > best_loss) & (self._weighted(look) > 0)
                self.radius = torch.where(worse, self.radius * SHRINK, (self.radius * GROW).clamp(max=1))
                best, best_push = _choose(worse, best, update), _choose_push(worse, best_push, push)
                best_loss = torch.where(worse, best_loss, total)
            update = best - self._length(best_push, percent) * scale * best_push[0]
            moved = True
            self.updates += 1
        self.steps += moved
        return update.to(x.dtype) if moved else None

    def _push(self, look: Look, gradient: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """-> direction (B, C, H, W) and the longest sensible length (B, 1, 1, 1). All for a latent of variance 1."""
        if mask is not None:
            gradient = gradient * mask
        axes, one = tuple(range(1, gradient.ndim)), (-1, *(1,) * (gradient.ndim - 1))
        if self.method.normalise:
            gradient = gradient - _background(gradient, mask)
        sound = gradient.isfinite().flatten(1).all(1).view(one)
        if not sound.all():
            self.broken += 1
            self.probe.loss_scale = max(self.probe.loss_scale / 16, 1.0)  # too large for half precision
            gradient = torch.where(sound, gradient, 0)
        if not self.method.normalise:
            return gradient, gradient.new_ones(gradient.shape[0]).view(one)
        cells = gradient[0].numel() if mask is None else (mask > 0).expand_as(gradient).sum(axes, keepdim=True)
        rms = (gradient.square().sum(axes, keepdim=True) / cells).sqrt()
        tiny = torch.finfo(rms.dtype).tiny
        loss = torch.nan_to_num(self._weighted(look)).view(one)
        return torch.where(rms > tiny, gradient / rms.clamp_min(tiny), 0), loss / (cells * rms).clamp_min(tiny)

    def _length(self, push: tuple[torch.Tensor, torch.Tensor], percent: float) -> torch.Tensor:
        length = push[0].new_tensor(self.method.step_size(percent) * self.strength)
        if not self.method.normalise or self.radius is None:
            return length
        return torch.minimum(length * self.radius.view(push[1].shape), push[1])

    def _weighted(self, look: Look) -> torch.Tensor:
        """(B,): the losses of the highlights that are descended, weighted by their strengths."""
        return torch.where(look.wanted, look.losses * look.losses.new_tensor(self._strengths), 0).sum(1)

    def _note(self, look: Look) -> torch.Tensor:
        """Keep the figures for the report. -> (B,): all losses, weighted."""
        for i, value in enumerate(look.losses.mean(0).tolist()):
            if value == value:  # not NaN: the conditioning is on at this sigma
                self.first[i] = value if self.first[i] is None else self.first[i]
                self.last[i] = value
        return torch.nan_to_num(look.losses * look.losses.new_tensor(self._strengths)).sum(1)

    def report(self, steps: int) -> str:
        """One line for the log."""
        losses = ", ".join(
            f"{phrase!r} {first:.3f} -> {last:.3f}" if first is not None else f"{phrase!r} never in force"
            for phrase, first, last in zip(self.phrases, self.first, self.last, strict=True)
        )
        broken = f", {self.broken} updates left out (gradient not finite)" if self.broken else ""
        return f"guided {self.steps} of {steps} steps in {self.updates} iterations{broken}; loss {losses}"


def latent_scale(model_sampling: Any, sigma: float) -> float:
    """Standard deviation of x at sigma, for data of variance 1: sqrt(sigma^2 + 1), and 1 for flow models."""
    from comfy.model_sampling import CONST

    if isinstance(model_sampling, CONST):
        return 1.0
    return (sigma**2 + float(getattr(model_sampling, "sigma_data", 1.0)) ** 2) ** 0.5


def percent_of(model_sampling: Any, sigma: torch.Tensor) -> float:
    """Where sigma lies on the noise schedule: 0 = pure noise, 1 = the finished image."""
    return 1 - _time(model_sampling, sigma, 1)


def time_of(model_sampling: Any, sigma: torch.Tensor) -> float:
    """t / T, as published code counts it: of a thousand times pure noise is 0.999, the finished image 0."""
    return _time(model_sampling, sigma, 0)


def _time(model_sampling: Any, sigma: torch.Tensor, fewer: int) -> float:
    """The number of sigma's time over how many times there are, less `fewer`."""
    count = getattr(model_sampling, "num_timesteps", 0)
    if not count:  # flow models and others without numbered times, which count time in units of their own
        return 1 - _percent_at(model_sampling, float(sigma[0]))
    return float(model_sampling.timestep(sigma[:1])) / (count - fewer)


def _percent_at(model_sampling: Any, sigma: float) -> float:
    """The inverse of the host's `percent_to_sigma`, by bisection: it falls from 0 to 1."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if float(model_sampling.percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return high


def _background(gradient: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(B, C, ..., H, W) -> the median of each channel, within the mask, to be taken away: of the whole shape, or
    (B, C, ..., 1, 1) without a mask. gradient is already 0 where the mask is, and stays so."""
    values = gradient.flatten(-2)
    count = torch.full_like(values[..., :1], values.shape[-1], dtype=torch.long)
    if mask is not None:
        inside = mask.expand_as(gradient).flatten(-2) > 0
        values, count = values.masked_fill(~inside, torch.inf), inside.sum(-1, keepdim=True)
    # sorted: the host's deterministic mode has no median
    middle = values.sort(-1).values.gather(-1, (count // 2).clamp(max=values.shape[-1] - 1)).unsqueeze(-1)
    return middle if mask is None else torch.where(mask.expand_as(gradient) > 0, middle, 0) * mask


def _choose(worse: torch.Tensor, kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return torch.where(worse.view(-1, *(1,) * (kept.ndim - 1)), kept, new)


def _choose_push(worse: torch.Tensor, kept: tuple, new: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(_choose(worse, a, b) for a, b in zip(kept, new, strict=True))
