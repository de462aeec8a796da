"""The default way of steering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .losses import placement_loss, shape_loss
from .method import Method
from .separation import separation_loss

if TYPE_CHECKING:
    from torch import nn

    from .architectures.unet import Block
    from .scenes import Scene
    from .seen import Seen
    from .targets import Target


@dataclass
class Limelight(Method):
    """Descends `placement_loss` on every coarse map, highlight by highlight, until each is satisfied.

    updates: updates a step, at most. size: root mean square of one, in units of a latent of variance 1. stop_at: a
    highlight whose loss is below this is satisfied. shape: weight of `shape_loss`. separation: weight of the
    self-attention loss that keeps highlights apart. loss(maps, targets, text_tokens) -> (B, n).
    """

    updates: int = 2
    size: float = 0.08
    stop_at: float = 0.1
    shape: float = 0.0
    separation: float = 0.0
    loss: Callable = placement_loss
    end_percent = 0.4

    def self_layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        return self.layout(network, height, width) if self.separation > 0 else []

    def losses(self, seen: Seen, scene: Scene, percent: float) -> torch.Tensor:
        tokens = scene.bound["text_tokens"]
        each = [self._loss(m, scene.targets(*m.shape[1:3], m.device), tokens) for m in seen.cross.values()]
        loss = torch.stack(each).mean(0)
        if self.separation > 0 and seen.self_ and len(scene.phrases) > 1:
            apart = [separation_loss(m, scene.targets(*m.shape[1:3], m.device)) for m in seen.self_.values()]
            loss = loss + self.separation * torch.stack(apart).mean(0)
        return loss

    def _loss(self, maps: torch.Tensor, targets: list[Target], tokens: list[int]) -> torch.Tensor:
        loss = self.loss(maps, targets, tokens)
        return loss if self.shape == 0 else loss + self.shape * shape_loss(maps, targets, tokens)

    def wanted(self, losses: torch.Tensor, percent: float, iteration: int) -> torch.Tensor:
        return losses > self.stop_at

    def iterations(self, percent: float) -> int:
        return self.updates

    def step_size(self, percent: float) -> float:
        return self.size
