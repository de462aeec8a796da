"""What the stages of the trainer share: learning rate, descent, steps that can be taken up again, how to draw time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from tqdm import tqdm

from . import networks  # noqa: F401 - makes torchvision importable, which diffusers needs

# isort: split
from diffusers import DDPMScheduler

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
COOLDOWN = 0.2  # last share of the steps, over which the learning rate falls to zero
CAPTION_DROPOUT = 0.1
SNR_CAP = 5.0
GROUNDING = 0.05  # weight of the loss on cross-attention maps


def learning_rate(base: float, step: int, steps: int) -> float:
    """Warm-up, constant, linear cool-down: a run can be prolonged by resuming with more steps."""
    return base * min(1.0, (step + 1) / 200, max(0.0, (steps - step) / (COOLDOWN * steps)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def descend(loss: torch.Tensor, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One optimizer step, gradients clipped to norm 1."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def steps_of(
    state: dict, name: str, steps: int, save_every: int, keep: Callable[[], None]
) -> Iterator[tuple[int, tqdm]]:
    """Yield the steps that are left, with the progress bar; save on the way and at the end."""
    bar = tqdm(range(state["step"], steps), initial=state["step"], total=steps, desc=name, mininterval=5)
    for step in bar:
        yield step, bar
        state["step"] = step + 1
        if (step + 1) % save_every == 0 or step + 1 == steps:
            keep()


def importance(schedule: DDPMScheduler) -> torch.Tensor:
    """How often to draw each timestep: min-SNR weighting (Hang et al. 2023) as a density, same expectation, less
    variance."""
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    return snr.clamp(max=SNR_CAP) / snr
