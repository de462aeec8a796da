"""Ways of biasing attention: what each adds to the logits of one attention call, in which blocks, and until when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F

from . import bias_terms
from .architectures.unet import FINEST
from .propagation import with_region
from .scenes import Scene, scenes

if TYPE_CHECKING:
    from ..regions.targets import Target
    from .architectures.unet import Block

Scores = Callable[..., torch.Tensor]
"""() -> the logits of the call's queries, (B, heads, N, T); (cells: a slice) -> those of other cells."""
Term: TypeAlias = "torch.Tensor | None"
CORE = 0.5  # a cell with this much attraction is inside a region, where inside or outside is all that counts


@dataclass(frozen=True)
class Layout:
    """The n highlights of one conditioning on one grid of N = h * w cells, for an attention call with T columns."""

    targets: list[Target]
    attract: torch.Tensor
    """(1, 1, N, n) in [0, 1]; (B, 1, N, n) where regions have grown."""
    suppress: torch.Tensor
    """(1, 1, N, n) in [0, 1]."""
    own: torch.Tensor
    """(n + 1, T), 0 or 1: columns of the phrases; last, those of the prompt's other words."""
    strengths: torch.Tensor
    """(n,)"""
    regions: torch.Tensor
    """(N, n + 1), 0 or 1: the regions at the latent's size, nearest cell; last, what no highlight covers."""

    @classmethod
    def of(cls, scene: Scene, grid: tuple[int, int], device: torch.device, length: int, columns: int) -> Layout:
        """length: of the context in this batch, where the host repeats a conditioning that is shorter than the others:
        its words are then there several times. columns: T; those beyond the context are another pack's."""
        targets = scene.targets(*grid, device)
        tokens = scene.cond["cross_attn"].shape[1]
        own = torch.zeros(len(targets) + 1, tokens)
        own[-1, scene.bound["text_tokens"]] = 1
        for row, target in zip(own, targets, strict=False):
            row[list(target.tokens)] = 1
            own[-1, list(target.tokens)] = 0
        own = own.repeat(1, length // tokens)
        return cls(
            targets,
            _stack([target.attract for target in targets]),
            _stack([target.suppress for target in targets]),
            F.pad(own, (0, columns - own.shape[1])).to(device),
            torch.tensor([target.strength for target in targets], device=device),
            _nearest(scene, grid, device),
        )

    def grown(self, regions: dict[int, torch.Tensor]) -> Layout:
        """The layout with the regions (B, h', w') to which its highlights have grown, by index (`propagation`)."""
        targets = [
            with_region(target, regions[target.index]) if target.index in regions else target for target in self.targets
        ]
        return replace(self, attract=_stack([target.attract for target in targets]))


def _stack(zones: list[torch.Tensor]) -> torch.Tensor:
    """n times (h, w) or (B, h, w) -> (1 or B, 1, N, n)."""
    stacked = torch.stack(torch.broadcast_tensors(*(zone.flatten(-2) for zone in zones)), -1)
    return stacked.reshape(-1, 1, *stacked.shape[-2:])


def _nearest(scene: Scene, grid: tuple[int, int], device: torch.device) -> torch.Tensor:
    covers = [target.instances.sum(0) for target in scene.targets(*scene.size, device)]
    # a stroke thinner than half a cell of the latent would be in none
    inside = [(cover >= cover.max().clamp(max=0.5)).float() for cover in covers]
    regions = F.interpolate(torch.stack(inside)[None], grid, mode="nearest")[0].flatten(1).transpose(0, 1)
    return torch.cat([regions, 1 - regions.amax(1, keepdim=True)], 1)


class BiasMethod:
    """A way of biasing attention. queries: the cells of the call, where it is made in pieces. time: t / 1000."""

    end_percent: float
    """Where the bias ends unless the user says otherwise: 0 = pure noise, 1 = the finished image."""

    def scenes(self, conds: dict[str, list[dict]], shape: Sequence[int], looseness: float) -> list:
        """What is to be biased in a run: with the attribute `cond` each, an entry of the guider's prepared ``conds``.

        shape: of the noise, (B, C, h, w). Raises a LimelightError where something does not fit, before anything runs.
        """
        return scenes(conds, (shape[-2], shape[-1]), looseness)

    def layout(self, scene: Any, grid: tuple[int, int], device: torch.device, length: int, columns: int) -> Any:
        """What `cross` and `self_` get of a scene on a grid; see `Layout.of`."""
        return Layout.of(scene, grid, device, length, columns)

    def cross_block(self, block: Block, latent: tuple[int, int]) -> bool:
        """Whether the cross-attention of this block is biased, for a latent (h, w)."""
        return True

    def self_block(self, block: Block, latent: tuple[int, int]) -> bool:
        """Whether the self-attention of this block is biased."""
        return True

    def cross(self, scores: Scores, queries: slice, layout: Any, strength: float, time: float) -> Term:
        """-> what to add to the logits of cross-attention, or None. Broadcasts to ``scores()``: (B, heads, N, T)."""
        raise NotImplementedError

    def self_(self, scores: Scores, queries: slice, layout: Any, strength: float, time: float) -> Term:
        """-> what to add to the logits of self-attention; broadcasts to ``scores()``, (B, heads, N, cells)."""
        raise NotImplementedError

    transformers: bool = False
    """Whether there is a `joint`, or `counts`."""

    def joint(self, layout: Layout) -> torch.Tensor:
        """-> what to add, at strength 1, to the logits of the image's tokens over the conditioning's in a transformer:
        (1 or B, 1, N, T)."""
        raise NotImplementedError

    def counts(self, layout: Layout, strength: float) -> torch.Tensor | None:
        """How many times each phrase counts for each cell, whole numbers (1 or B, 1, N, n). That is the bias log(count)
        and in transformers needs no mask. None: this method has no such form."""
        return None


class ShareBias(BiasMethod):
    """The default: keeps each phrase's share of each cell's attention within bounds (`bias_terms.keep_share`).

    On a highlight the share is at least SHARE * attract, beyond its band at most 1 - suppress; the band is free. Words
    of the prompt only: start token and padding move only in so far as shares are relative. Among the cells of the
    image, those of a highlight do not see those of the others. Where the guided step lets thin strokes grow, the bias
    follows.

    In a transformer's joint attention, where shares are of text and image together, fixed amounts: INSIDE * attract -
    OUTSIDE * suppress. Both are finite, so that no cell is left without text.
    """

    end_percent = 0.5
    SHARE = 0.9
    FINEST_SELF = 32  # cells of the short side
    INSIDE, OUTSIDE = 4.0, 6.0  # of logits: chosen on shapeworld's transformer, not on the released models
    transformers = True

    def cross_block(self, block: Block, latent: tuple[int, int]) -> bool:
        return min(block.grid) <= max(FINEST, min(latent) / 2)

    def self_block(self, block: Block, latent: tuple[int, int]) -> bool:
        return min(block.grid) <= self.FINEST_SELF

    def cross(self, scores: Scores, queries: slice, layout: Layout, strength: float, time: float) -> torch.Tensor:
        phrases = layout.own[:-1]
        floor, ceiling = self.SHARE * layout.attract[:, :, queries], 1 - layout.suppress[:, :, queries]
        moved = bias_terms.keep_share(scores(), phrases, floor, ceiling)
        return strength * (moved * layout.strengths) @ phrases

    def self_(self, scores: Scores, queries: slice, layout: Layout, strength: float, time: float) -> Term:
        if layout.attract.shape[-1] == 1:
            return None
        here, there = layout.attract[:, :, queries], (layout.attract >= CORE).to(layout.attract)
        different = 1 - torch.eye(here.shape[-1], device=here.device)
        foreign = (here[..., None, :] * different).amax(-1) * (1 - here)  # (1, 1, N, n): of which the cell is not
        return bias_terms.shut_out((foreign @ there.transpose(-1, -2)).clamp(max=1), strength)

    def joint(self, layout: Layout) -> torch.Tensor:
        wanted = self.INSIDE * layout.attract - self.OUTSIDE * layout.suppress
        return (wanted * layout.strengths) @ layout.own[:-1]


class DenseDiffusion(BiasMethod):
    """DenseDiffusion (Kim et al. 2023) as published: every attention call, hard regions, the first 30 % of the run.

    Words that no phrase has are pushed away, the start token and padding among them, as published. The published tool
    asks for a background region with a phrase; here it is what no highlight covers, with the other words of the prompt.
    The published text side is Highlight Prompt's `phrases_alone`.
    """

    end_percent = 0.3
    CROSS, SELF = 1.0, 0.3

    def cross(self, scores: Scores, queries: slice, layout: Layout, strength: float, time: float) -> torch.Tensor:
        shared = (layout.regions[queries] @ layout.own).clamp(max=1)
        return bias_terms.densediffusion(scores(), shared, self._area(layout, queries), strength * self.CROSS, time)

    def self_(self, scores: Scores, queries: slice, layout: Layout, strength: float, time: float) -> torch.Tensor:
        shared = (layout.regions[queries] @ layout.regions.transpose(0, 1)).clamp(max=1)
        return bias_terms.densediffusion(scores(), shared, self._area(layout, queries), strength * self.SELF, time)

    @staticmethod
    def _area(layout: Layout, queries: slice) -> torch.Tensor:
        """(N, 1): the share of the image that is in the regions of each cell, one after another."""
        return (layout.regions[queries] @ layout.regions.mean(0))[:, None]


class Bounded(BiasMethod):
    """The masks of Bounded Attention (Dahary et al. 2024): cells of a highlight see neither the words nor the cells of
    the others; all other cells see everything.

    As in its denoising pass, with highlights for boxes, and on the conditional rows only. What it does besides is left
    out: its guidance, the refinement of the masks by clustering after 30 % of the steps, where these masks therefore
    end, and the list of parts of speech to drop.
    """

    end_percent = 0.3

    def cross(self, scores: Scores, queries: slice, layout: Layout, strength: float, time: float) -> torch.Tensor:
        inside = self._inside(layout)[:, :, queries]
        foreign = (1 - inside) * inside.amax(-1, keepdim=True)
        return bias_terms.shut_out((foreign @ layout.own[:-1]).clamp(max=1), strength)

    def self_(self, scores: Scores, queries: slice, layout: Layout, strength: float, time: float) -> torch.Tensor:
        inside = self._inside(layout)
        here, there = inside[:, :, queries], inside.transpose(-1, -2)
        apart = 1 - (here @ there).clamp(max=1)
        hidden = apart * here.amax(-1, keepdim=True) * there.amax(-2, keepdim=True)
        return bias_terms.shut_out(hidden, strength)

    @staticmethod
    def _inside(layout: Layout) -> torch.Tensor:
        return (layout.attract >= CORE).to(layout.attract)


class Regions(Bounded):
    """Hard regions: on a highlight its phrase counts TIMES times, beyond its free band not at all. Our own.

    TIMES is about the e^2 of `ShareBias.INSIDE`. In transformers it needs no mask (`routes`), so that fast kernels stay
    in use. In UNets, cells of a highlight do not see those of the others either, as in `Bounded`.
    """

    TIMES = 7
    transformers = True

    def cross(self, scores: Scores, queries: slice, layout: Layout, strength: float, time: float) -> torch.Tensor:
        counts = self.counts(layout, strength)[:, :, queries]
        return counts.log().clamp(min=bias_terms.FAR) @ layout.own[:-1]

    def counts(self, layout: Layout, strength: float) -> torch.Tensor:
        times = (self.TIMES ** (strength * layout.strengths)).round()
        counts = torch.where(self._inside(layout) > 0, times, 1.0)
        out = (layout.suppress >= CORE) & (counts == 1) & (layout.strengths > 0)
        return torch.where(out, 0.0, counts)


METHODS: dict[str, BiasMethod] = {
    "limelight": ShareBias(),
    "densediffusion": DenseDiffusion(),
    "bounded": Bounded(),
    "regions": Regions(),
}
"""By the names that the node offers."""
