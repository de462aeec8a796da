"""Keep a subject from growing while its background is painted: what is around it looks away from it.

A background cell near the subject becomes part of it when it listens to the subject's words (cross-attention) and
copies the subject's cells (self-attention). In the steps that decide what is where, a part of both is taken away from
the cells of a band around the subject. Training-free and forward only, for any UNet; the idea is our own. The subject's
own cells, and what is beyond the band, see everything: the background still knows what stands in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..attention import bias, bias_terms
from ..attention.bias_methods import BiasMethod, ShareBias
from ..attention.scenes import NEGATIVE, crop_of
from ..errors import LimelightError
from ..prompts.binding import KEY
from ..regions import raster

if TYPE_CHECKING:
    from ..attention.architectures.unet import Block

WRAPPER = "limelight_expansion_guard"
STRENGTH, SELF, END, BAND = 1.0, 0.5, 0.8, 0.3
RIM = 2.0  # a cell that is half background is guarded in full: subjects grow within the cells of their rim first
KEPT = 0.5  # of a mask: the subject from here on
SAMPLES = 4096  # cells from which the subject's words are told
MASK = "subject_mask"  # input of the node, for errors


def zones(subject: np.ndarray, width: float) -> np.ndarray:
    """Subject mask (H, W) in [0, 1], white = keep -> (2, H, W) in [0, 1]: the subject, and the band around it.

    The band is 1 at the edge of the subject and falls to 0 at ``width``, in units of the short side (on a grid `RIM`
    times as much, 1 at most). Raises a
    LimelightError for a mask that keeps nothing, or all.
    """
    kept = subject >= KEPT
    if not kept.any():
        raise LimelightError(
            f"{MASK}: found a mask that is black (nothing to keep); expected the subject in white. Connect the mask of "
            "the subject."
        )
    if kept.all():
        raise LimelightError(
            f"{MASK}: found a mask that is white everywhere, so that there is no background to guard; expected white "
            "on the subject only. If it is white around the subject instead, put Invert Mask before it."
        )
    away = raster.distance(kept) / min(kept.shape)
    return np.stack([kept, ~kept * np.clip(1 - away / width, 0, 1)]).astype(np.float32)


def subject_words(probabilities: torch.Tensor, inside: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
    """How much more the subject listens to each column than the background: (B, T) in [0, 1].

    probabilities: (B, N, T), cross-attention. inside, outside: (B or 1, N), weights of the cells. With the mean
    attention a of the subject and b of the background to a column: max(0, 1 - b / a). What listens like the subject
    and loses that share then listens like the background.
    """

    def mean(weight: torch.Tensor) -> torch.Tensor:
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-6)
        return (weight[:, None] @ probabilities)[:, 0]

    here, there = mean(inside), mean(outside)
    return (1 - there / here.clamp(min=1e-6)).clamp(min=0)


def looked_away(band: torch.Tensor, subject: torch.Tensor, strength: float) -> torch.Tensor:
    """What to add to attention logits: queries (..., N, 1) in the band lose the share strength * band * subject of the
    weight of keys (..., 1, M), before the softmax makes up for it. 0: nothing, 1: all."""
    return bias_terms.shut_out(band * subject, strength)


def fading(time: float, end_percent: float) -> float:
    """1 at first, in the last half of the guarded part of the run falling to 0. time: t / 1000."""
    left = (end_percent - (1 - time)) / max(end_percent, 1e-6)
    return min(1.0, max(0.0, 2 * left))


@dataclass(frozen=True)
class Surroundings:
    """A subject on one grid of N cells, for an attention call with T columns."""

    subject: torch.Tensor
    """(B or 1, N) in [0, 1]: the share of each cell."""
    band: torch.Tensor
    """(B or 1, N) in [0, 1]: how far each cell is guarded."""
    words: torch.Tensor | None
    """(1, T), 0 or 1: the subject's; None: to be told from the attention itself."""

    def grown(self, regions: dict) -> Surroundings:
        """Highlights may grow; the subject must not."""
        return self


@dataclass
class Guarded:
    """A positive conditioning of a run. columns: those of the subject's words; None: not known."""

    cond: dict
    latent: tuple[int, int]
    columns: Sequence[int] | None


class Guard(BiasMethod):
    """``masks``: subjects, (H, W) in [0, 1] each, one or as many as the batch has images. ``phrase``: of the highlights
    on the conditioning the one that is the subject; empty: all of them."""

    def __init__(self, masks: Sequence[np.ndarray], width: float = BAND, phrase: str = "", end_percent: float = END):
        self.masks, self.phrase, self.end_percent = [zones(mask, width) for mask in masks], phrase, end_percent

    def cross_block(self, block: Block, latent: tuple[int, int]) -> bool:
        return ShareBias().cross_block(block, latent)

    def self_block(self, block: Block, latent: tuple[int, int]) -> bool:
        return min(block.grid) <= ShareBias.FINEST_SELF

    def scenes(self, conds: Mapping[str, list[dict]], shape: Sequence[int], looseness: float) -> list[Guarded]:
        if len(self.masks) not in (1, shape[0]):
            raise LimelightError(
                f"{MASK}: found {len(self.masks)} masks for a batch of {shape[0]} images; expected one mask for each "
                "image, or one for all."
            )
        positive = [cond for name, entries in conds.items() if name not in NEGATIVE for cond in entries]
        return [Guarded(cond, (shape[-2], shape[-1]), self._columns(cond)) for cond in positive if "cross_attn" in cond]

    def _columns(self, cond: dict) -> list[int] | None:
        highlights = cond.get(KEY, {}).get("highlights", [])
        named = [item for item in highlights if self.phrase in ("", item["phrase"])]
        if self.phrase and highlights and not named:
            known = ", ".join(repr(item["phrase"]) for item in highlights)
            raise LimelightError(
                f"phrase: found {self.phrase!r}, but the highlighted phrases of the positive conditioning are {known}. "
                "Name one of them, or leave it empty."
            )
        return [token for item in named for token in item["tokens"]] or None

    def layout(
        self, scene: Guarded, grid: tuple[int, int], device: torch.device, length: int, columns: int
    ) -> Surroundings:
        crop, words = crop_of(scene.cond, scene.latent), None
        drawn = torch.from_numpy(
            np.stack([[_on_grid(zone, scene.latent, crop, grid) for zone in one] for one in self.masks])
        )
        if scene.columns is not None:
            tokens = scene.cond["cross_attn"].shape[1]
            own = torch.zeros(tokens)
            own[list(scene.columns)] = 1
            own = own.repeat(length // tokens)  # the host repeats a conditioning that is shorter than the others
            words = F.pad(own, (0, columns - len(own)))[None].to(device)
        subject, band = drawn.flatten(2).to(device).unbind(1)
        return Surroundings(subject, (RIM * band).clamp(max=1), words)

    def cross(
        self, scores: Callable, queries: slice, layout: Surroundings, strength: float, time: float
    ) -> torch.Tensor | None:
        amount = strength * fading(time, self.end_percent)
        if not amount:
            return None
        words = layout.words
        if words is None:
            cells = slice(None, None, max(1, layout.band.shape[1] // SAMPLES))
            probabilities = scores(cells).softmax(-1).mean(1)
            background = (1 - layout.subject - layout.band).clamp(min=0)
            words = subject_words(probabilities, layout.subject[:, cells], background[:, cells])
        return looked_away(layout.band[:, None, queries, None], words[:, None, None], amount)

    def self_(
        self, scores: Callable, queries: slice, layout: Surroundings, strength: float, time: float
    ) -> torch.Tensor | None:
        amount = strength * fading(time, self.end_percent)
        if not amount:
            return None
        return looked_away(layout.band[:, None, queries, None], layout.subject[:, None, None], amount)


def _on_grid(zone: np.ndarray, latent: tuple[int, int], crop: tuple | None, grid: tuple[int, int]) -> np.ndarray:
    """(H, W) -> (h, w), area means; of a crop (h, w, y, x) of the latent where the conditioning has an area."""
    if crop is not None:
        height, width, y, x = crop
        zone = raster.resample(zone, *latent)[y : y + height, x : x + width]
    return raster.resample(zone, *grid)


def attach(
    model: Any,
    masks: Sequence[np.ndarray],
    strength: float = STRENGTH,
    start_percent: float = 0.0,
    end_percent: float = END,
    width: float = BAND,
    phrase: str = "",
    cross_strength: float = 1.0,
    self_strength: float = SELF,
) -> Any:
    """MODEL -> a clone whose background keeps away from the subjects. `strength` 0: a plain clone.

    start_percent, end_percent: the guarded part of the noise schedule, 0 = pure noise, 1 = the finished image. width:
    of the band, in units of the short side.
    """
    strengths = {"attn1": strength * self_strength, "attn2": strength * cross_strength}
    method = Guard(masks, width, phrase, end_percent)
    return bias.install(model, WRAPPER, method, (start_percent, end_percent), strengths)
