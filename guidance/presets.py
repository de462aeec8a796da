"""Published losses with their published constants, for comparison. Pure functions of maps and targets.

``maps``: (B, h, w, T) probabilities, softmax over the T tokens of the context, heads averaged, and averaged over the
layers of ONE resolution (16x16 for a 512 image in Stable Diffusion 1) before a loss is taken. ``targets`` as in
``targets.py``. Every loss returns (B, n_targets); the sum over targets is the published loss.

Their update, in variance-preserving latents x / sqrt(1 + sigma^2): subtract ``step_size(percent) * gradient``, one
gradient a step, over the first half of the steps (25 of 50). Where a phrase has several tokens each of them is guided:
the published code takes single-token phrases.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from .method import Method

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from .architectures.unet import Block
    from .scenes import Scene
    from .seen import Seen
    from .targets import Target

END_PERCENT = 0.5
MAP_SIDE = 16  # of the attention maps that the losses see
TEMPERATURE = 100.0
BOX_SHARE = 0.2  # BoxDiff's P
CORNER_REACH = 1  # BoxDiff's L, in cells
BOX_MARGIN = 0.05  # of the canvas, around the stroke
_COVERED = 0.25  # a cell belongs to the stroke's bounding box when at least this share of it is covered


def step_size(percent: float) -> float:
    """eta = 20 sqrt(r), r falling linearly from 1 to 1/2 over the whole run (Attend-and-Excite, BoxDiff)."""
    return 20 * math.sqrt(1 - 0.5 * percent)


def layout(network: nn.Module, height: int, width: int) -> list[Block]:
    """The blocks whose maps are nearest to 16x16, for a latent of height x width."""
    from .architectures.unet import all_blocks

    blocks = all_blocks(network, height, width)
    side = min((min(block.grid) for block in blocks), key=lambda side: abs(math.log(side / MAP_SIDE)))
    return [block for block in blocks if min(block.grid) == side]


class Preset(Method):
    """A loss of this module with the published update and schedule."""

    end_percent = END_PERCENT
    normalise = False

    def __init__(self, loss: Callable) -> None:
        self.loss = loss

    def layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        return layout(network, height, width)

    def losses(self, seen: Seen, scene: Scene, percent: float) -> torch.Tensor:
        maps = torch.stack(list(seen.cross.values())).mean(0)
        return self.loss(maps, scene.targets(*maps.shape[1:3], maps.device), scene.bound["text_tokens"])

    def step_size(self, percent: float) -> float:
        return step_size(percent)


def sharpened(maps: torch.Tensor) -> torch.Tensor:
    """softmax over tokens of 100 times the probabilities, start token and last column left out, then smoothed.

    (B, h, w, T) -> (B, h, w, T): column k still belongs to token k; the two columns left out are zero. Depends on how
    many tokens share the softmax (padding is among them), as published.
    """
    a = F.pad((TEMPERATURE * maps[..., 1:-1]).softmax(-1), (1, 1))
    return _smooth(a)


def _smooth(a: torch.Tensor) -> torch.Tensor:
    """3x3 Gaussian exp(-(x / (2 * 0.5))^2), reflected at the border. The published "sigma 0.5" acts like 0.71."""
    weights = torch.exp(-torch.tensor([-1.0, 0.0, 1.0], dtype=a.dtype, device=a.device).square())
    weights = weights / weights.sum()
    planes = a.permute(0, 3, 1, 2)
    batch, tokens, height, width = planes.shape
    planes = F.pad(planes.reshape(batch * tokens, 1, height, width), (1, 1, 1, 1), mode="reflect")
    planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, 1, 3)), weights.view(1, 1, 3, 1))
    return planes.view(batch, tokens, height, width).permute(0, 2, 3, 1)


def attend_and_excite(maps: torch.Tensor, targets: list[Target], text_tokens: list[int]) -> torch.Tensor:
    """L = max over tokens s of (1 - max over cells p of a'_s(p)): makes every phrase present, wherever.

    Source: Chefer et al. 2023, as in the authors' code. -> (B, n_targets): the worst loss, zero for the others.
    The refinement at steps 0, 10 and 20 is left out.
    """
    a = sharpened(maps)
    each = [(1 - a[..., list(target.tokens)].amax((1, 2))).amax(-1) for target in targets]
    losses = torch.stack(each, -1)
    worst = F.one_hot(losses.argmax(-1), len(targets))
    return losses * worst


def boxdiff(maps: torch.Tensor, targets: list[Target], text_tokens: list[int]) -> torch.Tensor:
    """Inner + outer + corner constraints, for every token of a phrase with each of its boxes.

    inner = 1 - mean of the top k of a' inside the box, k = floor(0.2 |box|); outer = mean of the top k of a' outside,
    k = floor(0.2 |outside|); corner, per axis: |max-projection of a' - projection of the box| on the cells within 1 of
    the box's two edges, mean over the axis. Unweighted sum.
    Source: Xie et al. 2023 (BoxDiff), the authors' code. The box is the bounding box of the stroke and a margin of 5 %.
    Published, boxes under five cells have k = 0 and give NaN; here k is at least 1. -> (B, n_targets).
    """
    a = sharpened(maps)
    losses = []
    for target in targets:
        own = a[..., list(target.tokens)].movedim(-1, 1)  # (B, tokens, h, w)
        each = [_box_terms(own, bounding_box(instance)).sum(1) for instance in target.instances]
        losses.append(torch.stack(each).sum(0))
    return torch.stack(losses, -1)


def bounding_box(coverage: torch.Tensor) -> tuple[int, int, int, int]:
    """Cells (x0, y0, x1, y1), ends exclusive, of a coverage (h, w) and BOX_MARGIN around it."""
    height, width = coverage.shape
    covered = coverage >= min(_COVERED, float(coverage.max()))
    ys, xs = (torch.nonzero(covered.any(axis))[:, 0] for axis in (1, 0))
    wide, high = round(BOX_MARGIN * width), round(BOX_MARGIN * height)
    x0, x1 = max(0, int(xs[0]) - wide), min(width, int(xs[-1]) + 1 + wide)
    y0, y1 = max(0, int(ys[0]) - high), min(height, int(ys[-1]) + 1 + high)
    return x0, y0, x1, y1


def _box_terms(a: torch.Tensor, box: tuple[int, int, int, int]) -> torch.Tensor:
    """a: (B, tokens, h, w) -> (B, tokens)."""
    x0, y0, x1, y1 = box
    inside = torch.zeros(a.shape[-2:], dtype=a.dtype, device=a.device)
    inside[y0:y1, x0:x1] = 1
    loss = 1 - _top(a * inside, inside) + _top(a * (1 - inside), 1 - inside)
    for axis, (low, high) in ((-2, (x0, x1)), (-1, (y0, y1))):  # reducing rows leaves the profile along x
        profile, wanted = a.amax(axis), inside.amax(axis)
        edges = torch.zeros_like(wanted)
        for edge in (low, high):
            edges[max(0, edge - CORNER_REACH) : edge + CORNER_REACH + 1] = 1
        loss = loss + ((profile - wanted).abs() * edges).mean(-1)
    return loss


def _top(a: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Mean of the largest fifth of a region's cells. A box that fills the canvas has no outside: 0."""
    cells = int(region.sum())
    k = max(1, math.floor(BOX_SHARE * cells))
    return a.flatten(-2).topk(k).values.mean(-1)


PRESETS = {"boxdiff": boxdiff, "attend-and-excite": attend_and_excite}
"""The losses by the names of their rows in the placement table."""
