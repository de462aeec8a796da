"""What one call of a control sees: which part of the image, and which images of the batch.

The host hands a control a crop of the latent for a conditioning with an area, and a window of a long batch, without
saying where they are. For areas a wrapper (`run`) leaves word in the transformer options; for windows the host and
AnimateDiff packs do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .coverage import cells

AREAS = "limelight_areas"


class Areas(NamedTuple):
    """What `run` leaves in the transformer options."""

    size: tuple[int, int]
    """Of the whole latent."""
    areas: dict[Any, tuple[int, int, int, int]]
    """By the conditioning's uuid: height, width, top, left in latent cells."""


class Part(NamedTuple):
    """A rectangle of the latent."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class View:
    """One call: `parts`, one for each conditioning in the batch, of a latent of size `whole`, all of one size."""

    whole: tuple[int, int]
    parts: tuple[Part, ...]
    frames: tuple[int, ...]
    """Of each image of a conditioning: its number in the whole batch."""

    @property
    def crops(self) -> bool:
        """Whether the call sees less than the whole image."""
        return any(part != (0, 0, *self.whole) for part in self.parts)

    @property
    def one_part(self) -> bool:
        return len({*self.parts}) == 1

    @classmethod
    def of(cls, x: torch.Tensor, chunks: int, options: dict | None) -> View:
        """x: (B * chunks, C, h, w), as given to `get_control`. options: the transformer options."""
        options = options or {}
        size = tuple(x.shape[-2:])
        told = options.get(AREAS)
        places = [told.areas.get(uuid) for uuid in options.get("uuids") or ()] if told else []
        whole, parts = size, (Part(0, 0, *size),) * chunks
        if told and len(places) == chunks:
            found = tuple(Part(0, 0, *told.size) if a is None else Part(a[2], a[3], a[0], a[1]) for a in places)
            if all((part.height, part.width) == size for part in found):  # else somebody has cut tiles
                whole, parts = told.size, found
        return cls(whole, parts, frames(len(x) // chunks, options))


def frames(count: int, options: dict) -> tuple[int, ...]:
    """Which images of the whole batch a call with `count` of them sees."""
    window = options.get("context_window")
    listed = getattr(window, "index_list", None) if getattr(window, "dim", 0) == 0 else None
    anchor = getattr(window, "causal_anchor_index", None)  # newer hosts: one more image, before those of the window
    if listed is not None and anchor is not None and anchor >= 0:
        listed = [anchor, *listed]
    if listed is None:
        listed = (options.get("ad_params") or {}).get("sub_idxs")
    if listed is not None and len(listed) == count:
        return tuple(int(i) for i in listed)
    return tuple(range(count))


def pixels(
    part: tuple[int, int], whole: int, source: int, cut: int, stride: float, ratio: int, unit: int
) -> torch.Tensor:
    """Along one axis, the edges (cells, 2) of a control's cells in pixels of its hint.

    part: first latent cell and number of latent cells. whole: latent cells of the image. source: pixels of the hint, of
    which `cut` on each side are outside of the image. stride: pixels of the image to a cell. ratio: pixels to a latent
    cell. unit: the control stretches its hint to a multiple of so many pixels, as the host does it for SDXL's adapters.
    """
    start, count = part
    length = count * ratio
    stretched = -(-length // unit) * unit
    edges = cells(stride, stretched) * (length / stretched) + start * ratio
    return cut + edges * ((source - 2 * cut) / (whole * ratio))


def cuts(source: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that are cut off at each side of a hint so that it gets the aspect of the image; the host's rule
    (comfy.utils.common_upscale, "center")."""
    height, width = source
    old, new = width / height, wanted[1] / wanted[0]
    rows = round((height - height * (old / new)) / 2) if old < new else 0
    columns = round((width - width * (new / old)) / 2) if old > new else 0
    return rows, columns
