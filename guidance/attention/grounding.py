"""Boxes for GLIGEN: where the objects of the highlights are, as the model sees the image, and when they count.

One box an object (instance). A box is (x0, y0, x1, y1) in fractions of what the model sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..regions import maskpng
from ..regions.document import Box, Instance, Raster, Stroke

Edges = tuple[float, float, float, float]
Area = tuple[int, int, int, int]

SLOTS = 30  # objects that GLIGEN was trained with
GROWN = 0.5  # of a region, from where a cell counts as part of the object
MARGIN = 0.05  # of the canvas on every side, as in Highlight-Guided Diffusion
RESIDUAL = "limelight_gligen_residual"
"""In parallel placement: what a block's gated attention adds, on its way past the block's cross-attention."""


@dataclass(frozen=True)
class Grounded:
    """One object to ground: its phrase, the phrase's text feature (1, D), and its shapes' edges with their reach."""

    phrase: str
    feature: torch.Tensor
    shapes: tuple[tuple[Edges, float], ...]
    index: int | None = None
    """Of its highlight among those that are bound to the conditioning; None: it is none of them."""

    @classmethod
    def of(cls, phrase: str, feature: torch.Tensor, instance: Instance, index: int | None = None) -> Grounded:
        return cls(phrase, feature, tuple(_edges(shape) for shape in instance.shapes), index)

    def box(self, latent: tuple[int, int], margin: float, crop: Area | None = None) -> Edges | None:
        """The object's box with ``margin`` (a share of the canvas) on every side, cut off at the border.

        latent: (h, w), for the aspect of the canvas. crop: (h, w, y, x) in its cells, if the model sees only that part;
        None when nothing of the object is in it.
        """
        height, width = latent
        across, down = min(latent) / width, min(latent) / height
        low_x = min(edges[0] - reach * across for edges, reach in self.shapes)
        low_y = min(edges[1] - reach * down for edges, reach in self.shapes)
        high_x = max(edges[2] + reach * across for edges, reach in self.shapes)
        high_y = max(edges[3] + reach * down for edges, reach in self.shapes)
        wide = (low_x - margin, low_y - margin, high_x + margin, high_y + margin)
        if crop is None:
            return _cut(wide)
        h, w, y, x = crop
        if high_x * width <= x or low_x * width >= x + w or high_y * height <= y or low_y * height >= y + h:
            return None
        x0, y0, x1, y1 = _cut(wide)
        return _cut(
            ((x0 * width - x) / w, (y0 * height - y) / h, (x1 * width - x) / w, (y1 * height - y) / h),
        )


class Grounding(list):
    """What the host hands to GLIGEN as its boxes, with how they are to be used.

    Entries are `Grounded`, or the host's own (feature, height, width, y, x) in latent cells: the stock node adds such
    to the end of any list. No entry is the paper's null grounding: the gates are open, and all tokens say "nothing".
    """

    def __init__(
        self,
        entries: Iterable[Any] = (),
        strength: float = 1.0,
        window: tuple[float, float] = (0.0, 1.0),
        parallel: bool = False,
        margin: float = MARGIN,
        latent: tuple[int, int] | None = None,
        crop: Area | None = None,
        regions: Mapping[int, torch.Tensor] | None = None,
    ) -> None:
        """strength: of the gates. window: start and end in percent of the noise schedule. parallel: beside
        cross-attention instead of before it. latent, crop: what the model sees, if that is not the whole image.
        regions: by index of a highlight, how far it has grown in sight, (B, h, w) in [0, 1]."""
        super().__init__(entries)
        self.strength, self.window, self.parallel, self.margin = strength, window, parallel, margin
        self.latent, self.crop, self.regions = latent, crop, regions or {}

    def __add__(self, more: Iterable[Any]) -> Grounding:
        return self.with_(entries=[*self, *more])

    def with_(self, **changes: Any) -> Grounding:
        """A copy with other settings."""
        return Grounding(**{"entries": list(self), **self.__dict__, **changes})

    def is_on(self, sigma: float, model_sampling: Any) -> bool:
        """Whether the host's noise level ``sigma`` is in the window."""
        high, low = (float(model_sampling.percent_to_sigma(percent)) for percent in self.window)
        return low <= sigma <= high

    def slots(self, shape: tuple[int, int]) -> list[tuple[torch.Tensor, list[Edges]]]:
        """Features (1, D) and boxes of what is in sight: one box for all samples, or one each. shape: (h, w) of the
        latent that the model gets."""
        view = self.latent or shape
        found = []
        for entry in self:
            if isinstance(entry, Grounded):
                box = entry.box(view, self.margin, self.crop)
                found += [(entry.feature, self._grown(entry, box, view))] if box else []
            else:
                found.append((entry[0], [_host_box(entry, shape)]))
        return found

    def _grown(self, entry: Grounded, box: Edges, view: tuple[int, int]) -> list[Edges]:
        """The box with what its object has grown by: a cell of the grown region belongs to the nearest object of the
        highlight."""
        if entry.index is None or entry.index not in self.regions:
            return [box]
        kin = [other for other in self if isinstance(other, Grounded) and other.index == entry.index]
        bare = {id(other): other.box(view, 0.0, self.crop) for other in kin}
        own = np.array(bare.pop(id(entry)))
        others = np.array([other for other in bare.values() if other]).reshape(-1, 4)
        boxes = []
        for region in self.regions[entry.index].float().cpu().numpy():
            rows, columns = np.nonzero(region >= GROWN)
            cells = np.stack([columns, rows, columns + 1, rows + 1], 1) / (region.shape[::-1] * 2)
            mine = cells[_away(cells, own[None])[0] < _away(cells, others).min(0, initial=np.inf)]
            reach = [box, *mine]
            boxes.append((*np.min(reach, 0)[:2].tolist(), *np.max(reach, 0)[2:].tolist()))
        return boxes


def _away(cells: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Squared distances of the centres of cells (n, 4) from boxes (k, 4) -> (k, n); 0 inside."""
    centres = (cells[:, :2] + cells[:, 2:]) / 2
    outside = np.maximum(np.maximum(boxes[:, None, :2] - centres, centres - boxes[:, None, 2:]), 0)
    return np.square(outside).sum(-1)


def add_residual(n: torch.Tensor, extra_options: dict) -> torch.Tensor:
    """A patch of the output n of cross-attention, for parallel placement: the block becomes x + Gated(x) + Cross(x).

    The host hands one dictionary of options to all patches of a block's forward; GLIGEN's patch leaves its part there.
    """
    residual = extra_options.pop(RESIDUAL, None)
    return n if residual is None else n + residual


def _edges(shape: Any) -> tuple[Edges, float]:
    """-> the shape's edges in fractions of the canvas, and how far its line reaches beyond, in units of its short
    side."""
    if isinstance(shape, Box):
        return shape.box, 0.0
    if isinstance(shape, Raster):
        mask = maskpng.decode(shape.png)
        rows, columns = np.nonzero(mask >= 0.5 * mask.max())  # a soft mask begins at half of its peak
        height, width = mask.shape
        return (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height), 0.0
    xs, ys = zip(*shape.points, strict=True)
    return (min(xs), min(ys), max(xs), max(ys)), shape.width / 2 if isinstance(shape, Stroke) else 0.0


def _host_box(entry: tuple, shape: tuple[int, int]) -> Edges:
    """The stock node's box, read as the host reads it."""
    height, width = shape
    _, h, w, y, x = entry
    return x / width, y / height, (x + w) / width, (y + h) / height


def _cut(box: Edges) -> Edges:
    left, top, right, bottom = (min(max(float(edge), 0.0), 1.0) for edge in box)
    return left, top, right, bottom
