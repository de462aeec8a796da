"""The default way of steering."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .architectures import family_of, unet
from .architectures.names import AUTO
from .losses import placement_loss, shape_loss
from .method import Method
from .propagation import grown, with_region
from .separation import separation_loss

if TYPE_CHECKING:
    from torch import nn

    from ..regions.targets import Target
    from .architectures.unet import Block
    from .scenes import Scene
    from .seen import Seen


@dataclass
class Limelight(Method):
    """Descends `placement_loss` on every coarse map, highlight by highlight, until each is satisfied.

    updates: updates a step, at most. size: root mean square of one, in units of a latent of variance 1. stop_at: a
    highlight whose loss is below this is satisfied. shape: weight of `shape_loss`. separation: weight of the
    self-attention loss that keeps highlights apart. propagate: cells of the free band that have become part of the
    object attract too. layers: the blocks that are looked at, by name (see `architectures.names.named`), or "auto":
    those that suit the model. loss(maps, targets, text_tokens) -> (B, n).
    """

    updates: int = 1
    size: float = 0.12
    stop_at: float = 0.1
    shape: float = 0.0
    separation: float = 0.5
    propagate: bool = True
    layers: str = AUTO
    loss: Callable = placement_loss
    end_percent = 0.3
    transformers = True

    def __post_init__(self) -> None:
        self.self_attention, self.affinity = self.separation > 0, self.propagate
        self._regions: dict[int, torch.Tensor] = {}
        self._told = False

    def regions(self) -> dict[int, torch.Tensor]:
        return self._regions

    def layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        return family_of(network).layout_blocks(network, height, width, self.layers)

    def self_layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        """In transformers only the attention to words is looked at."""
        wanted = (self.self_attention or self.affinity) and family_of(network) is unet
        return self.layout(network, height, width) if wanted else []

    def losses(self, seen: Seen, scene: Scene, percent: float) -> torch.Tensor:
        self._regions = self._grown(seen, scene)
        tokens, each = scene.bound["text_tokens"], []
        for maps in seen.cross.values():
            targets = scene.targets(maps.shape[1], maps.shape[2], maps.device)
            if self._regions:
                targets = [with_region(target, self._regions[target.index]) for target in targets]
            each.append(self._loss(maps, targets, tokens))
        loss = torch.stack(each).mean(0)
        if self.separation > 0 and len(scene.phrases) > 1 and not seen.self_ and not self._told:
            self._told = True
            logging.info("Limelight: no separation of the highlights: this model's self-attention is too large for it.")
        if self.separation > 0 and seen.self_ and len(scene.phrases) > 1:
            maps_of = seen.self_.values()
            apart = [separation_loss(m, scene.targets(m.shape[1], m.shape[2], m.device)) for m in maps_of]
            loss = loss + self.separation * torch.stack(apart).mean(0)
        return loss

    def _grown(self, seen: Seen, scene: Scene) -> dict[int, torch.Tensor]:
        """By highlight: its grown region (B, h, w), on the finest grid whose self-attention was captured."""
        if not self.propagate or not seen.affinity:
            return {}
        finest = max(seen.affinity, key=min)
        maps = seen.affinity[finest]
        return {target.index: grown(maps, target) for target in scene.targets(*finest, maps.device)}

    def _loss(self, maps: torch.Tensor, targets: list[Target], tokens: list[int]) -> torch.Tensor:
        loss = self.loss(maps, targets, tokens)
        return loss if self.shape == 0 else loss + self.shape * shape_loss(maps, targets, tokens)

    def wanted(self, losses: torch.Tensor, percent: float, iteration: int) -> torch.Tensor:
        return losses > self.stop_at

    def iterations(self, percent: float) -> int:
        return self.updates

    def step_size(self, percent: float) -> float:
        return self.size
