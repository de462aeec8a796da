"""Layout guidance: "backward guidance" with boxes (Chen, Laina and Vedaldi 2024). TraDiffusion shares its loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .base import Published, all_blocks, noise_share
from .regions import Box, boxes, cells_of

if TYPE_CHECKING:
    from torch import nn

    from ..architectures.unet import Block
    from ..scenes import Scene
    from ..seen import Seen

LOSS_SCALE = 30.0
ITERATIONS = 5
STEPS, RUN_STEPS = 10, 51
STOP_AT = 0.2


def box_energy(maps: torch.Tensor, tokens: Sequence[Sequence[int]], regions: Sequence[Sequence[Box]]) -> torch.Tensor:
    """E = mean over objects, tokens and heads of (1 - sum of A in the object's boxes / sum of A)^2. Raw A.

    maps: (B, heads, h, w, T) of one layer; tokens and regions: of each phrase. -> (B, n); the sum over phrases is E.
    Source: Chen et al. 2024, the authors' code.
    """
    losses = []
    for columns, own in zip(tokens, regions, strict=True):
        a = maps[..., list(columns)].movedim(-1, 1)  # (B, tokens, heads, h, w)
        inside = torch.stack([cells_of(box, a) for box in own]).amax(0)
        share = (a * inside).sum((-2, -1)) / a.sum((-2, -1))
        losses.append(((1 - share) ** 2).mean((1, 2)))
    return torch.stack(losses, -1) / len(tokens)


class BackwardGuidance(Published):
    """x <- x - sigma^2 grad(30 E) in the latents of k-diffusion, up to 5 times a step in the first 10 of 51 steps.

    E is the mean over the layers of the middle block (8x8 at 512 px in Stable Diffusion 1) and of the first level of
    output blocks with attention (16x16), heads apart. The loop goes on while E of the look before is above 0.2. As in
    the authors' code that value is carried from step to step: once a sample is satisfied it is never guided again, and
    the look that finds it satisfied still makes its update.
    """

    end_percent = (STEPS - 0.5) / (RUN_STEPS - 1)
    heads = True

    def __init__(self) -> None:
        self._before: torch.Tensor | None = None  # (B,): E of the look before

    def layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        blocks = all_blocks(network, height, width)
        up = [block for block in blocks if block.key[0] == "output"]
        first = [block for block in up if block.grid == up[0].grid]
        return [block for block in blocks if block.key[0] == "middle"] + first or blocks

    def energy(self, maps: torch.Tensor, scene: Scene) -> torch.Tensor:
        """maps: (B, heads, h, w, T) of one layer -> (B, n)."""
        raise NotImplementedError

    def losses(self, seen: Seen, scene: Scene, percent: float) -> torch.Tensor:
        return torch.stack([self.energy(maps, scene) for maps in seen.cross.values()]).mean(0)

    def continues(self, percent: float, iteration: int) -> bool:
        return self._before is None or bool((self._before > STOP_AT).any())

    def wanted(self, losses: torch.Tensor, percent: float, iteration: int) -> torch.Tensor:
        total = losses.sum(-1)
        going = torch.ones_like(total, dtype=torch.bool) if self._before is None else self._before > STOP_AT
        self._before = torch.where(going, total, 0)
        return going[:, None].expand_as(losses)

    def iterations(self, percent: float) -> int:
        return ITERATIONS

    def step_size(self, percent: float) -> float:
        """30 sigma^2 in the latents of k-diffusion is 30 sigma^2 / (1 + sigma^2) in latents of variance 1."""
        return LOSS_SCALE * noise_share(percent)


class LayoutGuidance(BackwardGuidance):
    """Layout guidance with the boxes of the highlights."""

    def energy(self, maps: torch.Tensor, scene: Scene) -> torch.Tensor:
        targets = scene.targets(maps.shape[2], maps.shape[3], maps.device)
        return box_energy(maps, [target.tokens for target in targets], boxes(targets))
