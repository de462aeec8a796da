"""The loops of Attention Refocusing: cross-attention (CAR), self-attention (SAR), or both with the gated term."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..capture import GROUNDING_SLOTS
from .base import Published, coarse_map, coarse_self_blocks, sharpened, step_end, step_index
from .refocusing import CLOSED, GROUNDING_WEIGHT, cross_refocusing, grounding_refocusing, self_refocusing
from .regions import boxes

if TYPE_CHECKING:
    from torch import nn

    from ..architectures.unet import Block
    from ..scenes import Scene
    from ..seen import Seen

STOP_AT = 0.1  # of the loss
REACHED = 0.2  # of the weakest object's attention
Rows = tuple[tuple[int, float, int], ...]


class Refocusing(Published):
    """x <- x - grad(s L) in latents of variance 1; the scale s stands in for a step size.

    Rows of the schedule: (before which step, s, iterations at most). As published the loop is left by what the look
    before has found, so that one update more is made than is needed.
    """

    rows: Rows
    cross, self_ = True, True
    _smallest: torch.Tensor  # (B,): attention inside the worst object's box, as the last look found it

    def __init__(self) -> None:
        self._going: torch.Tensor | None = None  # (B,): this look makes its update

    def self_layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        if not self.self_:
            return []
        return coarse_self_blocks(network, height, width, "Choose attention-refocusing-car, or a smaller image.")

    def row(self, percent: float) -> tuple[float, int]:
        """-> s and iterations, at most."""
        step = step_index(percent)
        return next(((scale, most) for end, scale, most in self.rows if step < end), (0.0, 0))

    def terms(self, seen: Seen, scene: Scene, step: int) -> torch.Tensor:
        """L (B, n)."""
        a = sharpened(coarse_map(seen.cross))
        height, width = a.shape[1:3]
        targets = scene.targets(height, width, a.device)
        regions = boxes(targets)
        loss = 0
        if self.cross:
            loss, self._smallest = cross_refocusing(a, [target.tokens for target in targets], regions, step)
        if self.self_:
            loss = loss + self_refocusing(coarse_map(seen.self_), regions)
        gated = [maps for maps in seen.grounding if maps.shape[-1] == height * width + GROUNDING_SLOTS]
        if gated and step < CLOSED:
            loss = loss + GROUNDING_WEIGHT * grounding_refocusing(torch.stack(gated).mean(0), regions, height, width)
        return loss

    def losses(self, seen: Seen, scene: Scene, percent: float) -> torch.Tensor:
        return self.row(percent)[0] * self.terms(seen, scene, step_index(percent))

    def continues(self, percent: float, iteration: int) -> bool:
        if iteration == 0:
            self._going = None
        return iteration < self.row(percent)[1] and (self._going is None or bool(self._going.any()))

    def wanted(self, losses: torch.Tensor, percent: float, iteration: int) -> torch.Tensor:
        total = losses.sum(-1)
        going = torch.ones_like(total, dtype=torch.bool) if self._going is None else self._going
        self._going = going & self.unfinished(total, percent)
        return going[:, None].expand_as(losses)

    def unfinished(self, total: torch.Tensor, percent: float) -> torch.Tensor:
        """The total loss (B,) of a look -> does the step's loop go on? (B,)"""
        return total > STOP_AT

    def iterations(self, percent: float) -> int:
        return self.row(percent)[1]

    def step_size(self, percent: float) -> float:
        return 1.0


class AttentionRefocusing(Refocusing):
    """CAR + SAR, and the gated term while GLIGEN is on. 49 updates in 50 steps, at most.

    From step 10 on only steps 10, 15, ... 35 are guided. A step ends when the attention inside the worst object's box
    reaches 0.2, and before step 10 also when s L falls to 0.1.
    """

    rows = ((2, 4.0, 2), (5, 4.0, 6), (10, 3.0, 3), (20, 3.0, 2), (36, 1.0, 2))
    end_percent = step_end(36)
    grounding = True
    dense, every = 10, 5

    def row(self, percent: float) -> tuple[float, int]:
        step = step_index(percent)
        return super().row(percent) if step < self.dense or step % self.every == 0 else (0.0, 0)

    def unfinished(self, total: torch.Tensor, percent: float) -> torch.Tensor:
        hungry = self._smallest < REACHED
        return hungry & (total > STOP_AT) if step_index(percent) < self.dense else hungry


class CrossRefocusing(Refocusing):
    """CAR alone. Its loop is broken in the newest published code (it takes apart the wrong number of outputs); this is
    what it says."""

    rows = ((10, 3.0, 5), (20, 2.0, 5), (30, 1.0, 1))
    end_percent = step_end(30)
    self_ = False


class SelfRefocusing(Refocusing):
    """SAR alone. Broken in the newest published code in the same way."""

    rows = ((10, 4.0, 5), (20, 3.0, 5), (30, 1.0, 1))
    end_percent = step_end(30)
    cross = False
