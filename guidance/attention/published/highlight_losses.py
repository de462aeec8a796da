"""The losses of Highlight-Guided Diffusion (2024) and of its successor, Scribble-Guided Diffusion (Lee et al. 2024).

Formulas are those that the authors' code computes. ``tokens``: the columns of each phrase. ``owner``: whose phrase each
individual (object) is. Strokes and boxes of K individuals: (B or 1, K, h, w) bool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

ALPHA_IN, ALPHA_OUT = 0.3, 0.7
FOCUS = 2  # the exponent of the focal loss
TOP = 5
ANGLE_WEIGHT = 3.0
ROUNDING = 16
PRESENT = 0.2  # of the range of an object's map: its cells


def focal_loss(a: torch.Tensor, tokens: Sequence[Sequence[int]], strokes: torch.Tensor) -> torch.Tensor:
    """L = mean over tokens and cells of alpha_y (1 - p)^2 BCEWithLogits(a', y): focal loss of a map against a stroke.

    y: 1 on the phrase's stroke; alpha: 0.3 there and 0.7 elsewhere; p: the probability of y, sigmoid(a') or its rest.

    a: (B, h, w, T), `sharpened` maps; strokes: (n, h, w) bool, of each phrase. -> (B, n); the sum over phrases is L.
    Source: Highlight-Guided Diffusion, the authors' code (there it is the only cross-attention term that is on).
    Known bug, kept: a' is a probability and is taken for a logit. A perfect map costs 0.12 on each cell outside, and
    the pull towards the stroke is several times weaker than the push away from everything else.
    """
    count = sum(len(columns) for columns in tokens)
    losses = []
    for columns, y in zip(tokens, strokes.to(a), strict=True):
        logits = a[..., list(columns)]
        y = y[None, ..., None].expand_as(logits)
        entropy = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        alpha = ALPHA_IN * y + ALPHA_OUT * (1 - y)
        each = alpha * (1 - torch.exp(-entropy)) ** FOCUS * entropy  # exp(-BCE) is p
        losses.append(each.mean((1, 2)).sum(-1))
    return torch.stack(losses, -1) / count


def self_loss(maps: torch.Tensor, tokens: Sequence[Sequence[int]], strokes: torch.Tensor) -> torch.Tensor:
    """How much the cells of one stroke look at those of the others.

    Queries: the cells of a token's stroke; keys: the cells of other phrases' strokes that are not in its own. For each
    key the mean of its top k queries, k = min(5, number of tokens); mean over keys, mean over tokens.

    maps: (B, h, w, h * w), self-attention, mean over heads and layers; strokes: (n, h, w) bool. -> (B, n); the sum over
    phrases is the loss. A phrase without others, or hidden by them, costs 0. Source: Highlight-Guided Diffusion, the
    authors' code.
    """
    count = sum(len(columns) for columns in tokens)
    flat = strokes.flatten(1)
    losses = []
    for i, columns in enumerate(tokens):
        others = torch.cat([flat[:i], flat[i + 1 :]]).any(0) & ~flat[i]
        given = maps.flatten(1, 2)[:, flat[i]][:, :, others]  # (B, queries, keys)
        if not given[0].numel():
            losses.append(maps.new_zeros(maps.shape[0]))
            continue
        top = given.topk(min(TOP, count, given.shape[1]), dim=1).values
        losses.append(len(columns) / count * top.mean((1, 2)))
    return torch.stack(losses, -1)


def moment_loss(
    a: torch.Tensor, tokens: Sequence[Sequence[int]], strokes: torch.Tensor, boxes: torch.Tensor, owner: Sequence[int]
) -> torch.Tensor:
    """Centroid and orientation of a phrase's map in an individual's box against those of its stroke.

    L_i = |c_A - c_S| / 16 + 3 (min(|d|, 2 pi - |d|) / pi)^2 with A = a' in the box, min-max normalised, c centroids in
    cells, d the difference of the angles theta = 1/2 atan2(2 mu11, mu20 - mu02) in [0, pi). Mean over the phrase's
    tokens, mean over individuals. 16: the side of the map; here its short side.

    a: (B, h, w, T), `sharpened` maps. -> (B, n); the sum over phrases is the loss.
    Source: Scribble-Guided Diffusion, the authors' code. Known bugs, kept: an orientation repeats after pi and the
    difference is wrapped at 2 pi, so that 7 and 173 degrees count as far apart; a map as a whole is not asked to be in
    the box; only second moments count. Not kept: the NaN of a map without an orientation or without a range.
    """
    side = min(a.shape[1:3])
    losses = a.new_zeros(a.shape[0], len(tokens))
    for k, i in enumerate(owner):
        own = a[..., list(tokens[i])].movedim(-1, 1) * boxes[:, k, None]  # (B, tokens, h, w)
        low, high = own.amin((-2, -1), keepdim=True), own.amax((-2, -1), keepdim=True)
        centre, angle = centre_and_angle((own - low) / (high - low).clamp_min(torch.finfo(a.dtype).tiny))
        aim, line = centre_and_angle(strokes[:, k, None].to(a))
        away = torch.linalg.vector_norm(centre - aim, dim=-1) / side
        turn = (angle - line).abs()
        turn = torch.minimum(turn, 2 * math.pi - turn) / math.pi
        each = (away + ANGLE_WEIGHT * turn**2).mean(1)
        losses = losses + each[:, None] * F.one_hot(torch.tensor(i, device=a.device), len(tokens)) / len(owner)
    return losses


def centre_and_angle(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centroid (..., 2) as (row, column), and angle (...) in [0, pi) from the rows' axis, of maps (..., h, w) >= 0.

    An angle that is not defined is 0 and has no gradient; a map of zeros counts as a uniform one. Rounding errors do
    not tilt a symmetric map: beside 0 they would wrap to pi.
    """
    total = maps.sum((-2, -1), keepdim=True)
    weights = torch.where(total > 0, maps, 1)
    weights = weights / weights.sum((-2, -1), keepdim=True)
    rows = torch.arange(maps.shape[-2], dtype=maps.dtype, device=maps.device)[:, None]
    columns = torch.arange(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    centre = torch.stack([(weights * at).sum((-2, -1)) for at in (rows, columns)], -1)
    rows, columns = (at - c[..., None, None] for at, c in zip((rows, columns), centre.unbind(-1), strict=True))
    across = 2 * (weights * rows * columns).sum((-2, -1))
    along = (weights * (rows**2 - columns**2)).sum((-2, -1))
    noise = ROUNDING * torch.finfo(maps.dtype).eps * (weights * (rows**2 + columns**2)).sum((-2, -1))
    across, along = (torch.where(moment.abs() > noise, moment, 0) for moment in (across, along))
    defined = (across != 0) | (along != 0)
    angle = torch.atan2(torch.where(defined, across, 0), torch.where(defined, along, 1)) / 2
    return centre, torch.remainder(angle, math.pi)


def object_masks(
    cross: Mapping[tuple, torch.Tensor], tokens: Sequence[Sequence[int]], height: int, width: int
) -> torch.Tensor:
    """Where each phrase's object is: its raw cross-attention above 0.2 of its range.

    cross: (B, h, w, T) by block, of all sizes; the mean of the layers of each size, resized, weighted by 1 / (h w).
    Several tokens of a phrase: their mean. -> (B, n, height, width) bool.
    """
    sizes = sorted({tuple(maps.shape[1:3]) for maps in cross.values()})
    weights = {size: 1 / (size[0] * size[1]) for size in sizes}
    total = torch.zeros((), device=next(iter(cross.values())).device)
    for size in sizes:
        layers = torch.stack([maps for maps in cross.values() if tuple(maps.shape[1:3]) == size]).detach().mean(0)
        own = torch.stack([layers[..., list(columns)].mean(-1) for columns in tokens], 1)
        fine = F.interpolate(own, size=(height, width), mode="bilinear", align_corners=False)
        total = total + weights[size] / sum(weights.values()) * fine
    low, high = total.amin((-2, -1), keepdim=True), total.amax((-2, -1), keepdim=True)
    return (total - low) > PRESENT * (high - low)


def feature_loss(
    features: torch.Tensor,
    objects: torch.Tensor,
    strokes: torch.Tensor,
    boxes: torch.Tensor,
    owner: Sequence[int],
) -> torch.Tensor:
    """The stroke's features towards the object's, the object's beside the stroke towards the background's.

    L = 1/2 [(1 - (cos(src*, tgt) + 1) / 2) + (1 - (cos(src, out*) + 1) / 2)], * without gradient, of mean features over
    src: object and box without stroke; tgt: stroke; out: neither object nor box. Mean over individuals.

    features: (B, C, h, w) of one block; objects: (B, n, h, w) bool, from `object_masks`. -> (B, n); the sum over
    phrases is the loss. Where src or out is empty in a sample its individual costs 0. Source: Highlight-Guided
    Diffusion, the authors' code (where it is written for a single image).
    """
    losses = features.new_zeros(features.shape[0], objects.shape[1])
    for k, i in enumerate(owner):
        inside = objects[:, i] & boxes[:, k] & ~strokes[:, k]
        outside = ~objects[:, i] & ~boxes[:, k]
        source, target, ground = (_mean(features, region) for region in (inside, strokes[:, k], outside))
        pull = 1 - (F.cosine_similarity(source.detach(), target, dim=-1) + 1) / 2
        push = 1 - (F.cosine_similarity(source, ground.detach(), dim=-1) + 1) / 2
        present = inside.any(-1).any(-1) & outside.any(-1).any(-1)
        each = torch.where(present, (pull + push) / 2, 0)
        losses = losses + each[:, None] * F.one_hot(torch.tensor(i, device=losses.device), losses.shape[1]) / len(owner)
    return losses


def _mean(features: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w), (B or 1, h, w) bool -> (B, C)."""
    weights = region.to(features)[:, None]
    return (features * weights).sum((-2, -1)) / weights.sum((-2, -1)).clamp_min(1)
