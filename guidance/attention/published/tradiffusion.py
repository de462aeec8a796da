"""TraDiffusion: guidance by traces of the mouse (Wu et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ...regions.document import Stroke, parse_instances
from ...regions.raster import coverage, opencv
from .layout_guidance import BackwardGuidance

if TYPE_CHECKING:
    from ...regions.document import Shape
    from ..scenes import Scene

MOVEMENT = 10.0
PIXELS = 8  # a latent cell's side: distances are in pixels of the image
NEAREST = 1.0  # the distance on the trace itself: it is divided by


def trace_energy(maps: torch.Tensor, tokens: Sequence[Sequence[int]], distances: torch.Tensor) -> torch.Tensor:
    """control + movement, mean over objects, tokens and heads. Raw A.

    control = (1 - sum(A / D) / sum A)^2, movement = 10 (1 - 1 / (sum(A D) / sum A))^2, D: the distance to the trace.
    Both are 0 where all attention lies on cells with D = 1.

    maps: (B, heads, h, w, T) of one layer; tokens: of each phrase; distances: (n, h, w), positive. -> (B, n); the sum
    over phrases is the published loss. Source: Wu et al. 2024, the authors' code.
    """
    losses = []
    for columns, distance in zip(tokens, distances, strict=True):
        a = maps[..., list(columns)].movedim(-1, 1)  # (B, tokens, heads, h, w)
        a = a / a.sum((-2, -1), keepdim=True)
        control = (1 - (a / distance).sum((-2, -1))) ** 2
        movement = MOVEMENT * (1 - 1 / (a * distance).sum((-2, -1))) ** 2
        losses.append((control + movement).mean((1, 2)))
    return torch.stack(losses, -1) / len(tokens)


def distance_to_trace(shapes: Sequence[Shape], height: int, width: int) -> np.ndarray:
    """(height, width) float32: distance in pixels to a line of 1 px along the centre lines of strokes, and to the
    inside of other shapes, and NEAREST more: exact Euclidean."""
    cv2 = opencv()
    away = np.ones((height, width), np.uint8)
    for shape in shapes:
        if isinstance(shape, Stroke):
            points = np.array(shape.points + shape.points[-1:]) * (width, height)  # OpenCV draws no line of one point
            inside = np.minimum(np.floor(points), np.where(points <= (width, height), (width - 1, height - 1), np.inf))
            cv2.polylines(away, [inside.astype(np.int32)], False, 0)
        else:
            away[coverage([shape], height, width) >= 0.5] = 0
    if away.all():  # finer than a pixel
        drawn = coverage(shapes, height, width)
        away[drawn == drawn.max()] = 0
    return cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) + NEAREST


class TraDiffusion(BackwardGuidance):
    """TraDiffusion with the centre lines of the highlights' strokes as traces; a published trace is a polyline of 1 px.

    Several objects of one phrase count as one trace. The distances are drawn at the size of the image and resized to
    each layer. Blocks, schedule and stop as in layout guidance.
    """

    def __init__(self) -> None:
        super().__init__()
        self._distances: torch.Tensor | None = None  # (n, H, W) on the canvas

    def energy(self, maps: torch.Tensor, scene: Scene) -> torch.Tensor:
        targets = scene.targets(maps.shape[2], maps.shape[3], maps.device)
        if self._distances is None:
            self._distances = _distances(scene, [target.index for target in targets]).to(maps.device)
        near = F.interpolate(self._distances[None], size=maps.shape[2:4], mode="bilinear", align_corners=False)[0]
        return trace_energy(maps, [target.tokens for target in targets], near)


def _distances(scene: Scene, indices: Sequence[int]) -> torch.Tensor:
    """Of these highlights, in what the model sees of the image."""
    drawn = []
    for index in indices:
        objects = parse_instances(scene.bound["highlights"][index]["instances"], f"highlights[{index}].instances")
        shapes = [shape for one in objects for shape in one.shapes]
        drawn.append(distance_to_trace(shapes, *(PIXELS * side for side in scene.latent)))
    height, width, y, x = (PIXELS * at for at in scene.crop or (*scene.latent, 0, 0))
    return torch.from_numpy(np.stack(drawn)[:, y : y + height, x : x + width])
