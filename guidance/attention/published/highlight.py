"""Highlight-Guided Diffusion (2024) and Scribble-Guided Diffusion (Lee et al. 2024): phrases along strokes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .base import Published, all_blocks, coarse_blocks, coarse_map, coarse_self_blocks, sharpened, step_end, step_index
from .growth import affinity, grow
from .highlight_losses import feature_loss, focal_loss, moment_loss, object_masks, self_loss
from .modulation import StrokeModulation
from .regions import individuals, on_grid, tight_boxes

if TYPE_CHECKING:
    from torch import nn

    from ..architectures.unet import Block
    from ..scenes import Scene
    from ..seen import Seen

DECAY = 0.95  # of a row, for every step since its first
STOP_AT = 0.5


@dataclass(frozen=True)
class Row:
    """Steps `first` to `last` of the published run, as they begin: step size, weights of the losses, iterations."""

    first: int
    last: int
    step_size: float
    self_: float
    cross: float
    moment: float
    feature: float
    iterations: float


ROWS = (Row(0, 4, 3, 10, 5, 5, 5, 5), Row(5, 9, 2, 5, 3, 3, 3, 3), Row(10, 14, 1, 1, 1, 2, 2, 2))
FEATURE_STEPS = range(5, 15)


class HighlightGuidedDiffusion(Published):
    """L = l_self L_self + l_cross L_cross + l_moment L_moment + l_feature L_feature in steps 0 to 14: `ROWS`, all of a
    row times 0.95^k in its k-th step, iterations too: 5 x 5, 5 x 3 and 5 x 2 updates in all.

    In steps 5 to 14 the strokes grow along self-attention (`growth.grow`), seen by the moment and feature losses alone,
    and the feature loss is on. It looks at output blocks 6 and 9 of Stable Diffusion 1, the first of the two finest
    levels; in other networks at their counterparts. Several tokens of a phrase are guided each.

    As published the loss is carried from step to step: once a sample's loss is 0.5 or less it is never guided again.
    Published, a loss of 0.5 or less at the very first step loops for ever; here that sample is left alone.
    `modulation` acts in every conditional pass of these steps. With GLIGEN the published strength of its gated
    attention is 1, 0.7 below t = 500 and 0.4 below t = 300, to the end.
    """

    end_percent = step_end(15)
    modulation = StrokeModulation()
    focal_weight = 1.0
    threshold = 1e-4  # of propagation
    propagation_steps = range(5, 15)
    whole = True  # self-attention, features and maps of every size are looked at

    def __init__(self, propagate: bool = True) -> None:
        self.propagate = propagate
        self._satisfied: torch.Tensor | None = None  # (B,)
        self._strokes: torch.Tensor | None = None  # (B, K, h, w): as far as they have grown
        self._grown = self.propagation_steps.start  # the next step that lets them grow

    def layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        return (all_blocks if self.whole else coarse_blocks)(network, height, width)

    def self_layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        if self.whole:
            coarse_self_blocks(network, height, width, "Choose scribble-diffusion, or a smaller image.")
        return all_blocks(network, height, width) if self.whole or self.propagate else []

    def feature_blocks(self, network: nn.Module) -> tuple[int, ...]:
        return first_of_finest(network) if self.whole else ()

    def losses(self, seen: Seen, scene: Scene, percent: float) -> torch.Tensor:
        step, (row, decay) = step_index(percent), row_at(percent)
        a = sharpened(coarse_map(seen.cross))
        height, width = a.shape[1:3]
        tokens = [target.tokens for target in scene.targets(height, width, a.device)]
        drawn, owner = individuals(scene, a.device)
        self._let_grow(drawn, seen, step)
        strokes = drawn if self._strokes is None else self._strokes
        whole = torch.stack([drawn[0, [k for k, i in enumerate(owner) if i == n]].any(0) for n in range(len(tokens))])
        masks = on_grid(whole[None], height, width)[0]
        boxes = tight_boxes(strokes)
        near = on_grid(strokes, height, width), on_grid(boxes, height, width)
        loss = row.cross * self.focal_weight * focal_loss(a, tokens, masks)
        loss = loss + row.moment * moment_loss(a, tokens, *near, owner)
        if self.whole:
            loss = loss + row.self_ * self_loss(coarse_map(seen.self_), tokens, masks)
        if self.whole and step in FEATURE_STEPS:
            each = [_features(f, seen, tokens, strokes, boxes, owner) for f in seen.features.values()]
            loss = loss + row.feature * torch.stack(each).mean(0)
        return decay * loss

    def _let_grow(self, drawn: torch.Tensor, seen: Seen, step: int) -> None:
        """A round for every published step since the last: as many as there would be in a published run."""
        if not self.propagate or not seen.affinity:
            return
        attention = affinity(seen.affinity, *drawn.shape[-2:])
        for passed in range(self._grown, min(step + 1, self.propagation_steps.stop)):
            self._strokes = drawn if self._strokes is None else self._strokes
            self._strokes = grow(self._strokes, attention, self.threshold, (981 - 20 * passed) / 1000)
        self._grown = max(self._grown, step + 1)

    def continues(self, percent: float, iteration: int) -> bool:
        step = step_index(percent)
        self.affinity = self.propagate and iteration == 0 and step in self.propagation_steps and step >= self._grown
        return self._satisfied is None or not bool(self._satisfied.all())

    def wanted(self, losses: torch.Tensor, percent: float, iteration: int) -> torch.Tensor:
        low = losses.sum(-1) <= STOP_AT
        self._satisfied = low if self._satisfied is None else self._satisfied | low
        return ~self._satisfied[:, None].expand_as(losses)

    def iterations(self, percent: float) -> int:
        row, decay = row_at(percent)
        return math.ceil(row.iterations * decay)

    def step_size(self, percent: float) -> float:
        row, decay = row_at(percent)
        return row.step_size * decay


class ScribbleDiffusion(HighlightGuidedDiffusion):
    """Scribble-Guided Diffusion as its public configuration has it: focal loss (weight 5) and moment loss.

    Propagation, in steps 5 to 19 with a threshold of 1e-3, is off there. The published loop goes on to step 19, where
    no loss is in force any more: steps 15 to 19 change nothing and are left out.
    """

    focal_weight = 5.0
    threshold = 1e-3
    propagation_steps = range(5, 20)
    whole = False
    self_attention = False

    def __init__(self, propagate: bool = False) -> None:
        super().__init__(propagate)


def row_at(percent: float) -> tuple[Row, float]:
    """-> the row in force, and how far it has decayed."""
    step = step_index(percent)
    row = next((row for row in ROWS if step <= row.last), ROWS[-1])
    return row, DECAY ** (step - row.first)


def first_of_finest(network: nn.Module) -> tuple[int, ...]:
    """The first output block of each of the two finest levels: 6 and 9 in Stable Diffusion 1, 3 and 6 in SDXL."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample

    blocks = network.output_blocks
    ends = [i + 1 for i, block in enumerate(blocks) if any(isinstance(layer, Upsample) for layer in block)]
    return tuple(first for first in [0, *ends][-2:] if first < len(blocks) - 1)  # what the last hands on is not seen


def _features(
    features: torch.Tensor, seen: Seen, tokens: list, strokes: torch.Tensor, boxes: torch.Tensor, owner: list[int]
) -> torch.Tensor:
    size = features.shape[-2:]
    objects = object_masks(seen.cross, tokens, *size)
    return feature_loss(features.float(), objects, on_grid(strokes, *size), on_grid(boxes, *size), owner)
