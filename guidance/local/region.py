"""Where and how a control acts: the mask and its settings, as they travel with a CONTROL_NET."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from .. import checks
from ..errors import LimelightError
from .coverage import cells, coverage

WHERE = ("both", "features", "hint")
AUTO = "auto"  # where the control was trained to have it, else "both"
FILLS = {"black": 0.0, "gray": 0.5, "white": 1.0}
LEVELS = 4
_ASPECT = 0.02  # how much the aspects of mask and hint may differ: sizes are rounded to multiples of 8 or 64


@dataclass(frozen=True, eq=False)
class Region:
    """A control region. Masks are in [0, 1], 1 where the control acts."""

    mask: torch.Tensor | None = None
    """(K, H, W), or none: everywhere."""
    where: str = "both"
    """Whether the mask is put on what the control adds to the model ("features"), on its hint, or on both; `AUTO`
    becomes one of these when a control gets the region."""
    feather: float = 0.0
    """Pixels of the image over which the region fades in, inwards."""
    halo: float | None = None
    """Pixels around the region in which the hint is kept. None: as far as the control's fine levels see."""
    fill: float = 0.0
    """Value of the hint where it is taken away, and of the blank hint."""
    blank: float = 0.0
    """How much of the response to a blank hint is subtracted: M (F(c) - blank F(fill))."""
    strength: float = 1.0
    """Multiplied with that of the Apply node."""
    levels: tuple[float, ...] = (1.0,) * LEVELS
    """Strength of each level, the finest first."""
    curve: tuple[tuple[float, float], ...] = ()
    """Points (share of the noise schedule, factor) of the strength; none: always 1."""
    cond: float = 1.0
    uncond: float = 1.0
    """Strength for the positive and for the negative conditioning."""

    def at(self, percent: float) -> float:
        """The curve's factor at a share of the noise schedule."""
        if not self.curve:
            return 1.0
        places, factors = zip(*self.curve, strict=True)
        return float(np.interp(percent, places, factors))

    @property
    def masks_features(self) -> bool:
        return self.mask is not None and self.where != "hint"

    @property
    def masks_hint(self) -> bool:
        return self.mask is not None and self.where != "features"


def packed(hint: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Hint (N, C, H, W) and mask (K, h, w) as one tensor (max(N, K), C + 1, H, W), so that whoever crops the hint crops
    the mask. Raises LimelightError where they do not belong together."""
    height, width = hint.shape[-2:]
    aspect, own = width / height, mask.shape[-1] / mask.shape[-2]
    if abs(own / aspect - 1) > _ASPECT:
        raise LimelightError(
            f"mask: found {mask.shape[-1]}x{mask.shape[-2]} pixels, for a hint of {width}x{height}: they do not have "
            "the same aspect, so that the mask would lie elsewhere. Make both of the whole image."
        )
    count = max(len(hint), len(mask))
    if {len(hint), len(mask)} - {1, count}:
        raise LimelightError(
            f"mask: found {len(mask)} masks for {len(hint)} hints; expected as many masks as hints, or one of either."
        )
    rows, columns = (cells(1, size) * (of / size) for size, of in zip((height, width), mask.shape[-2:], strict=True))
    mask = mask.float() if mask.shape[-2:] == hint.shape[-2:] else coverage(mask, rows, columns)
    both = [hint, mask[:, None].to(hint)]
    return torch.cat([each if len(each) == count else each.expand(count, -1, -1, -1) for each in both], 1)


def parse_curve(text: str, name: str = "curve") -> tuple[tuple[float, float], ...]:
    """ "0:1, 0.5:0.2" -> points. Raises LimelightError for anything else."""
    points = []
    for item in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        share, colon, factor = item.partition(":")
        if not colon:
            raise LimelightError(f"{name}: found {checks.show(item)}; expected points such as 0:1, 0.5:0.2, 1:0.")
        points.append((_number(share, name, 1), _number(factor, name, 10)))
    if any(a[0] >= b[0] for a, b in itertools.pairwise(points)):
        raise LimelightError(
            f"{name}: found {checks.show(text)}; expected points from left to right, such as 0:1, 1:0."
        )
    return tuple(points)


def parse_levels(text: str, name: str = "level_weights") -> tuple[float, ...]:
    """ "1, 0.8" -> four weights, the last one repeated. Raises LimelightError for anything else."""
    found = [_number(part, name, 10) for part in text.split(",")]
    if len(found) > LEVELS:
        raise LimelightError(f"{name}: found {len(found)} numbers; expected {LEVELS}, one for each level.")
    return (*found, *found[-1:] * (LEVELS - len(found)))


def _number(text: str, name: str, high: float) -> float:
    value: float | str
    try:
        value = float(text)
    except ValueError:
        value = text.strip()  # named by the check
    return checks.number(value, name, 0, high)
