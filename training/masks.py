"""Regions in which a sample of local control is controlled, drawn anew for each step: 1 inside, 0 outside.

The curriculum shows regions of all sizes alike: their area is log-uniform. Each shape is a level set of a field, at the
level that gives it just that area within the frame, wherever its centre is; so regions that run out of the picture are
as large as those in its middle. The published sampler, for comparison, hardly ever touches a border: `published_box`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ..guidance.regions import raster

LEAST, MOST = 0.02, 0.9  # share of the frame that a shape covers
FULL, EMPTY = (
    0.1,
    0.05,
)  # how often all or nothing is controlled: so it stays an ordinary adapter, and learns its absence
OWN = 0.3  # how often the sample's own mask is taken, if it has one
BORDER = 0.3  # how often a box, an ellipse or a polygon has its centre on the border
SOFT = 0.2  # how often a region has soft edges
SOFTEST = 0.08  # standard deviation of the softest, in shares of the short side
SHAPES = {"box": 3.0, "ellipse": 2.0, "polygon": 2.0, "strokes": 2.0, "half-plane": 1.0}  # how often, relatively
PUBLISHED_LEAST = 10_000 / 512**2  # share of the frame


def draw(
    generator: torch.Generator, height: int, width: int, own: torch.Tensor | None = None, shape: str | None = None
) -> torch.Tensor:
    """A region of the curriculum, (height, width) float32 in [0, 1].

    own: a mask of the sample's, (h, w) in [0, 1], of the same aspect. shape: one of `SHAPES`, instead of any; the
    region is then neither full nor empty nor the sample's own. All random numbers come from the generator.
    """
    chance = _uniform(generator)
    if shape is None:
        if chance < FULL:
            return torch.ones(height, width)
        if chance < FULL + EMPTY:
            return torch.zeros(height, width)
        if own is not None and _uniform(generator) < OWN and own.max() > 0:
            small = own.shape[0] > height or own.shape[1] > width
            mask = F.interpolate(own[None, None].float(), (height, width), mode="bilinear", antialias=small)[0, 0]
            return _softened(mask, generator)
        weights = torch.tensor(list(SHAPES.values()))
        shape = list(SHAPES)[int(torch.multinomial(weights, 1, generator=generator))]
    area = math.exp(_uniform(generator, math.log(LEAST), math.log(MOST)))
    field = _field(shape, generator, height, width)
    last = max(1, round(area * field.numel())) - 1
    level = np.partition(field.numpy().ravel(), last)[last]
    return _softened((field <= float(level)).float(), generator)


def published_box(generator: torch.Generator, height: int, width: int) -> torch.Tensor:
    """The published `bbox` sampler, (height, width) of 0 and 1; at 512x512 exactly, else in proportion.

    x1 ~ U{0 .. W-2}, x2 ~ U{x1+1 .. W-1}, y likewise, until the area is 10,000 of 512 x 512 pixels at least.
    Columns x1 to x2 - 1 are inside.
    """
    while True:
        (top, bottom), (left, right) = (_interval(generator, side) for side in (height, width))
        if (bottom - top) * (right - left) >= PUBLISHED_LEAST * height * width:
            mask = torch.zeros(height, width)
            mask[top:bottom, left:right] = 1
            return mask


def _interval(generator: torch.Generator, side: int) -> tuple[int, int]:
    first = int(torch.randint(0, side - 1, (), generator=generator))
    return first, int(torch.randint(first + 1, side, (), generator=generator))


def _field(shape: str, generator: torch.Generator, height: int, width: int) -> torch.Tensor:
    """(height, width): the shape is where it is low. Lengths are in short sides."""
    short = min(height, width)
    high, wide = height / short, width / short
    y = ((torch.arange(height) + 0.5) / short)[:, None]
    x = (torch.arange(width) + 0.5) / short
    if shape == "strokes":
        return _from_lines(generator, height, width)
    angle = _uniform(generator, 0, 2 * math.pi)
    if shape == "half-plane":
        return x * math.cos(angle) + y * math.sin(angle)
    middle, centre = _uniform(generator, 0, high), _uniform(generator, 0, wide)
    if _uniform(generator) < BORDER:
        edge = int(_uniform(generator, 0, 4))
        middle, centre = ((0.0, centre), (high, centre), (middle, 0.0), (middle, wide))[edge]
    along, across = y - middle, x - centre
    stretch = math.exp(_uniform(generator, -math.log(3), math.log(3)) / 2)
    if shape == "box":
        return torch.maximum(along.abs() * stretch, across.abs() / stretch)
    u = across * math.cos(angle) + along * math.sin(angle)
    v = along * math.cos(angle) - across * math.sin(angle)
    if shape == "ellipse":
        return torch.hypot(u / stretch, v * stretch)
    # a star-shaped polygon: within a sector between two corners the field is that of the straight line through them
    corners = int(_uniform(generator, 3, 9))
    # no sector reaches half a turn: the centre lies inside
    parts = 0.7 + 0.6 * torch.rand(corners, generator=generator, dtype=torch.float64)
    angles = (2 * math.pi * parts.cumsum(0) / parts.sum()).tolist()
    reach = (0.4 + 0.6 * torch.rand(corners, generator=generator)).tolist()
    turned = torch.atan2(v, u) % (2 * math.pi)
    field = torch.zeros(height, width)
    for i in range(corners):
        first, last = angles[i - 1] - (2 * math.pi if i == 0 else 0), angles[i]
        (x1, y1), (x2, y2) = ((reach[j] * math.cos(angles[j]), reach[j] * math.sin(angles[j])) for j in (i - 1, i))
        # s with (u, v) / s on the line through both corners
        level = (u * (y1 - y2) + v * (x2 - x1)) / (x2 * y1 - x1 * y2)
        inside = (turned >= max(first, 0)) & (turned < last)
        if first < 0:
            inside |= turned >= first + 2 * math.pi
        field = torch.where(inside, level, field)
    return field


def _from_lines(generator: torch.Generator, height: int, width: int) -> torch.Tensor:
    """(height, width): distance in pixels from one to three bent lines."""
    canvas = np.full((height, width), 255, np.uint8)
    scale = torch.tensor([width, height], dtype=torch.float64)
    for _ in range(1 + int(_uniform(generator, 0, 3))):
        count = 2 + int(_uniform(generator, 0, 4))
        steps = torch.randn(count, 2, generator=generator, dtype=torch.float64) * 0.25
        steps[0] = torch.rand(2, generator=generator, dtype=torch.float64)
        points = (steps.cumsum(0).clamp(0, 1) * (scale - 1)).round().int().numpy()
        raster.opencv().polylines(canvas, [points.reshape(-1, 1, 2)], False, 0)
    return torch.from_numpy(raster.distance(canvas == 0))


def _softened(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Now and then with soft edges. The picture goes on mirrored beyond its borders."""
    if _uniform(generator) >= SOFT:
        return mask
    sigma = min(mask.shape) * math.exp(_uniform(generator, math.log(SOFTEST / 8), math.log(SOFTEST)))
    border = raster.opencv().BORDER_REFLECT
    return torch.from_numpy(raster.opencv().GaussianBlur(mask.numpy(), (0, 0), sigma, borderType=border)).clamp(0, 1)


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
