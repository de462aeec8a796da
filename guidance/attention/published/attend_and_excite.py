"""Attend-and-Excite: every phrase present, wherever (Chefer et al. 2023). BoxDiff grew from it and shares its loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..method import published_step
from .base import Published, coarse_map, sharpened, step_end, step_index

if TYPE_CHECKING:
    from ..scenes import Scene
    from ..seen import Seen

STEPS = 25
SCALE = 20.0
LAST_STEP = 49
THRESHOLDS = {0: 0.05, 10: 0.5, 20: 0.8}  # what an object's attention has to reach at these steps
REFINEMENTS = 20  # updates of a refinement, at most


def attend_and_excite(a: torch.Tensor, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
    """L = max over tokens s of (1 - max over cells p of a'_s(p)).

    a: (B, h, w, T), `sharpened` maps; tokens: the columns of each phrase. -> (B, n): the loss of the worst phrase,
    zero for the others, so that the sum is L. Each token of a phrase counts, as in the authors' code.
    Source: Chefer et al. 2023, the authors' code.
    """
    each = [(1 - a[..., list(columns)].amax((1, 2))).amax(-1) for columns in tokens]
    return worst(torch.stack(each, -1))


def worst(losses: torch.Tensor) -> torch.Tensor:
    """(B, n) -> (B, n): the largest of each row, zero for the others."""
    return losses * F.one_hot(losses.argmax(-1), losses.shape[-1])


class Refining(Published):
    """eta = 20 sqrt(r), r falling linearly from 1 to 1/2 over the whole run; one update a step, in steps 0 to 24.

    Refinement, if `refine`: at steps 0, 10 and 20, while an objective of its own is above 1 - (0.05, 0.5, 0.8), up to
    20 updates on that objective come before the step's update. As published the bound is compared with the objective
    before the last update, so that one update more is made than is needed.
    """

    end_percent = step_end(STEPS)

    def __init__(self, refine: bool = True) -> None:
        self.refine = refine
        self._iteration = 0
        self._refining: torch.Tensor | None = None  # (B,): in this look
        self._before: torch.Tensor | None = None  # (B,): the objective of the look before
        self._done: torch.Tensor | None = None  # (B,): the step's update is made

    def objectives(self, seen: Seen, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
        """-> the loss (B, n), and the refinement's objective (B, n), zero but for the worst phrase."""
        raise NotImplementedError

    def continues(self, percent: float, iteration: int) -> bool:
        self._iteration = iteration
        if iteration == 0:
            self._done = None
        return self._done is None or not bool(self._done.all())

    def losses(self, seen: Seen, scene: Scene, percent: float) -> torch.Tensor:
        loss, objective = self.objectives(seen, scene)
        self._refining = self._refined_now(objective.detach().sum(-1), percent)
        return torch.where(self._refining[:, None], objective, loss)

    def _refined_now(self, value: torch.Tensor, percent: float) -> torch.Tensor:
        threshold = THRESHOLDS.get(step_index(percent)) if self.refine else None
        if threshold is None:
            return torch.zeros_like(value, dtype=torch.bool)
        before, self._before = self._before, value
        if self._iteration == 0 or before is None or self._refining is None:
            return value > 1 - threshold
        if self._iteration >= REFINEMENTS:
            return torch.zeros_like(value, dtype=torch.bool)
        return self._refining & (before > 1 - threshold)

    def wanted(self, losses: torch.Tensor, percent: float, iteration: int) -> torch.Tensor:
        open_ = torch.ones_like(losses[:, 0], dtype=torch.bool) if self._done is None else ~self._done
        self._done = ~(open_ & self._refining)
        return open_[:, None] & (losses != 0)

    def iterations(self, percent: float) -> int:
        return 1 + REFINEMENTS if self.refine and step_index(percent) in THRESHOLDS else 1

    def step_size(self, percent: float) -> float:
        return SCALE * math.sqrt(1 - 0.5 * min(published_step(percent) / LAST_STEP, 1))


class AttendAndExcite(Refining):
    """Attend-and-Excite with its refinement, on by default as published. It takes no notice of where a stroke is."""

    def objectives(self, seen: Seen, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
        a = sharpened(coarse_map(seen.cross))
        targets = scene.targets(a.shape[1], a.shape[2], a.device)
        loss = attend_and_excite(a, [target.tokens for target in targets])
        return loss, loss
