"""What the published methods share: the steps they count, the maps they look at, and how their loops stop.

Published schedules count the steps of 50-step runs. Here each of those steps owns the stretch of the noise schedule
around its timestep, so that a schedule holds for any sampler and any number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ...errors import LimelightError
from ..architectures import unet
from ..capture import MAX_SELF_CELLS
from ..method import Method, percent_of_step, published_step

if TYPE_CHECKING:
    from torch import nn

    from ..architectures.unet import Block

MAP_SIDE = 16  # of the attention maps that the losses see, at 512 px in Stable Diffusion 1
TEMPERATURE = 100.0
BETAS = 0.00085, 0.012  # first and last of the noise schedule of Stable Diffusion
TIMESTEPS = 1000


class Published(Method):
    """Updates of `step_size` times the bare gradient, from the maps nearest to 16x16, averaged over their layers.

    `wanted` and all state are per sample: a batch does what its samples would do alone.
    """

    normalise = False

    def layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        return coarse_blocks(network, height, width)


def step_index(percent: float) -> int:
    """The step of a published 50-step run (t = 981, 961, ... 1) that owns this point of the schedule, from 0."""
    return int(published_step(percent) + 0.5)


def step_end(count: int) -> float:
    """The percent at which the first ``count`` steps of a published run end."""
    return percent_of_step(count - 0.5)


def noise_share(percent: float) -> float:
    """sigma^2 / (1 + sigma^2) = 1 - alpha_bar at this point of Stable Diffusion's schedule, in (0, 1)."""
    betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, TIMESTEPS, dtype=torch.float64) ** 2
    last = round((1 - percent) * (TIMESTEPS - 1))
    return 1 - float((1 - betas[: last + 1]).prod())


def nearest_side(sides: Iterable[int]) -> int:
    """Of sides of attention maps, the one nearest to 16."""
    return min(sorted(set(sides)), key=lambda side: abs(math.log(side / MAP_SIDE)))


def all_blocks(network: nn.Module, height: int, width: int) -> list[Block]:
    """Every block, for a latent of height x width. Raises a LimelightError where the network has none."""
    unet.layout_blocks(network, height, width)
    return unet.all_blocks(network, height, width)


def coarse_blocks(network: nn.Module, height: int, width: int) -> list[Block]:
    """The blocks whose maps are nearest to 16x16, for a latent of height x width."""
    blocks = all_blocks(network, height, width)
    side = nearest_side(min(block.grid) for block in blocks)
    return [block for block in blocks if min(block.grid) == side]


def coarse_self_blocks(network: nn.Module, height: int, width: int, remedy: str) -> list[Block]:
    """The same, for their self-attention. Raises a LimelightError where it is too large to be captured."""
    blocks = coarse_blocks(network, height, width)
    rows, columns = blocks[0].grid
    if rows * columns > MAX_SELF_CELLS:
        raise LimelightError(
            f"method: it looks at self-attention in the maps nearest to 16x16, which have {columns}x{rows} cells in "
            f"this model at this size; at most {MAX_SELF_CELLS} can be captured. {remedy}"
        )
    return blocks


def coarse_map(maps: Mapping[tuple, torch.Tensor]) -> torch.Tensor:
    """(B, h, w, M) by block -> (B, h, w, M): the mean over the layers whose maps are nearest to 16x16."""
    side = nearest_side(min(m.shape[1:3]) for m in maps.values())
    return torch.stack([m for m in maps.values() if min(m.shape[1:3]) == side]).mean(0)


def sharpened(maps: torch.Tensor) -> torch.Tensor:
    """softmax over tokens of 100 times the probabilities, start token and last column left out, then smoothed.

    (B, h, w, T) -> (B, h, w, T): column k still belongs to token k; the two columns left out are zero. Depends on how
    many tokens share the softmax (padding is among them), as published. Source: Attend-and-Excite (2023), the authors'
    code, and everything that grew from it.
    """
    return smoothed(F.pad((TEMPERATURE * maps[..., 1:-1]).softmax(-1), (1, 1)))


def smoothed(maps: torch.Tensor) -> torch.Tensor:
    """3x3 Gaussian exp(-(x / (2 * 0.5))^2) over (B, h, w, T), reflected at the border.

    Known bug, kept: the published "sigma 0.5" acts like 0.71. A side of one cell has nothing to reflect: it repeats.
    """
    weights = torch.exp(-torch.tensor([-1.0, 0.0, 1.0], dtype=maps.dtype, device=maps.device).square())
    weights = weights / weights.sum()
    planes = maps.permute(0, 3, 1, 2)
    batch, tokens, height, width = planes.shape
    mode = "reflect" if min(height, width) > 1 else "replicate"
    planes = F.pad(planes.reshape(batch * tokens, 1, height, width), (1, 1, 1, 1), mode=mode)
    planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, 1, 3)), weights.view(1, 1, 3, 1))
    return planes.view(batch, tokens, height, width).permute(0, 2, 3, 1)
