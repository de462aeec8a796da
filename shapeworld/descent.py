"""What the stages of the trainer share: learning rate, descent, steps that can be taken up again, how to draw time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .data import DEVICE, save  # first: it makes torchvision importable, which diffusers needs

# isort: split
from diffusers import DDPMScheduler

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
COOLDOWN = 0.2  # last share of the steps, over which the learning rate falls to zero
SNR_CAP = 5.0
GROUNDING = 0.05  # weight of the loss on cross-attention maps


def learning_rate(base: float, step: int, steps: int) -> float:
    """Warm-up, constant, linear cool-down: a run can be prolonged by resuming with more steps."""
    return base * min(1.0, (step + 1) / 200, max(0.0, (steps - step) / (COOLDOWN * steps)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def descend(loss: torch.Tensor, model: torch.nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    """One step of the optimizers, gradients clipped to norm 1."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


class Resumed:
    """A stage's state: what it trains with, and the steps it has done. Taken up from the file where that is there."""

    def __init__(self, path: Path, **parts: Any) -> None:
        """parts: models, optimizers, averages of weights, by the names that the file has for them."""
        self.path, self.parts, self.step = path, parts, 0
        if path.exists():
            saved = torch.load(path, map_location=DEVICE, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            self.step = saved["step"]

    def keep(self) -> None:
        """Write the file."""
        save(self.path, **{name: part.state_dict() for name, part in self.parts.items()}, step=self.step)

    def steps(
        self, name: str, steps: int, save_every: int, kept: Callable[[], None] | None = None
    ) -> Iterator[tuple[int, tqdm]]:
        """Yield the steps that are left, with the progress bar; keep the state on the way and at the end. kept: is
        called after that."""
        bar = tqdm(range(self.step, steps), initial=self.step, total=steps, desc=name, mininterval=5)
        for step in bar:
            yield step, bar
            self.step = step + 1
            if (step + 1) % save_every == 0 or step + 1 == steps:
                self.keep()
                if kept is not None:
                    kept()


def importance(schedule: DDPMScheduler) -> torch.Tensor:
    """How often to draw each timestep: min-SNR weighting (Hang et al. 2023) as a density, same expectation, less
    variance."""
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    return snr.clamp(max=SNR_CAP) / snr
