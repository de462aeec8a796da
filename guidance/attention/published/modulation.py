"""The attention modulation that goes with Highlight- and Scribble-Guided Diffusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .. import bias_terms
from ..bias_methods import BiasMethod, Layout, Scores
from .base import nearest_side, step_end

if TYPE_CHECKING:
    from ..architectures.unet import Block


class StrokeModulation(BiasMethod):
    """DenseDiffusion's modulation as these systems use it, in every conditional pass of their first 15 steps:

        S += (1 - area) (t/1000)^5 (max S - S) on a phrase's stroke, S -= (1 - area) (t/1000)^5 (S - min S) elsewhere

    for the columns of phrases, S: attention logits, max and min over the keys of a query, area: the stroke's share of
    the cells. In cross-attention of output blocks, in the maps nearest to 16x16. The published weight for
    self-attention is 0, and what it weighs is applied behind the softmax, where it acts on nothing.
    Source: the authors' code; its switch `do_modulation` is never read, so that this is always on.
    """

    end_percent = step_end(15)

    def cross_block(self, block: Block, latent: tuple[int, int]) -> bool:
        sides = [min(latent)]
        while sides[-1] > 1:
            sides.append((sides[-1] + 1) // 2)
        return block.key[0] == "output" and min(block.grid) == nearest_side(sides)

    def self_block(self, block: Block, latent: tuple[int, int]) -> bool:
        return False

    def cross(self, scores: Scores, queries: slice, layout: Layout, strength: float, time: float) -> torch.Tensor:
        strokes, phrases = layout.regions[:, :-1], layout.own[:-1]
        sizes = strength * time**5 * (1 - strokes.mean(0))[:, None] * phrases  # (n, T)
        inside = strokes[queries]
        return bias_terms.value_range(scores(), inside @ sizes, (1 - inside) @ sizes)
