"""How much attention regions get, and how good a map is beside what chance and the middle of the picture give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import metrics as metrics
from .maps import centre_bias

POINTS = 1000  # drawn from the target map for the scores that need points
HIGHER_IS_BETTER = {"cc": True, "sim": True, "kl": False} | dict.fromkeys(
    ("nss", "auc_judd", "auc_borji", "sauc", "information_gain"), True
)


def scores(prediction: np.ndarray, target: np.ndarray, others: list[np.ndarray], seed: int = 0) -> dict[str, float]:
    """All metrics of a prediction against the target map, (H, W) each; NaN where one is not defined.

    Points are `POINTS` draws from the target. others: maps that the points of sAUC are drawn from, of any size. The
    baseline of the information gain is the centre bias.
    """
    points = metrics.sample(target, POINTS, seed)
    elsewhere = np.concatenate([_rescaled(metrics.sample(o, POINTS, seed + 1), o.shape, target.shape) for o in others])
    bias = centre_bias(*target.shape)
    return {
        "cc": metrics.cc(prediction, target),
        "sim": metrics.sim(prediction, target),
        "kl": metrics.kl(prediction, target),
        "nss": metrics.nss(prediction, points),
        "auc_judd": metrics.auc_judd(prediction, points),
        "auc_borji": metrics.auc_borji(prediction, points),
        "sauc": metrics.auc(prediction, points, elsewhere),
        "information_gain": metrics.information_gain(
            metrics.log_density(prediction), points, metrics.log_density(bias)
        ),
    }


def scored(predictions: np.ndarray, targets: np.ndarray, seed: int = 0) -> list[dict[str, dict[str, float]]]:
    """(B, H, W) twice -> for each pair, by metric: its value, that of the centre bias and of shuffled predictions.

    Shuffled: the mean over the predictions of the batch's other pairs with another target; for a pair alone, over its
    own prediction mirrored sideways, upside down and both. What a score is worth is how far it is beyond both.
    """
    results = []
    for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        apart = [j for j in range(len(targets)) if not np.array_equal(targets[j], target)]
        others = [targets[j] for j in apart] or _mirrored(target)
        shuffled = [predictions[j] for j in apart] or _mirrored(prediction)
        value = scores(prediction, target, others, seed + i)
        centre = scores(centre_bias(*target.shape), target, others, seed + i)
        chance = [scores(each, target, others, seed + i) for each in shuffled]
        results.append(
            {k: {"value": value[k], "centre_bias": centre[k], "shuffled": _mean([c[k] for c in chance])} for k in value}
        )
    return results


def attention(saliency: np.ndarray, regions: np.ndarray) -> list[dict[str, Any]]:
    """(H, W) and (R, H, W) in [0, 1] -> for each region its shares of attention and area, lift and rank.

    Attention share: the part of the map's sum that lies in the region. Lift: attention share over area share; 1 is what
    chance gives. Rank: 1 for the highest lift. An empty region has no lift (NaN) and the last rank.
    """
    density = metrics.density(saliency)
    rows = []
    for region in regions:
        share, area = float((density * region).sum()), float(region.mean())
        rows.append({"attention_share": share, "area_share": area, "lift": share / area if area else math.nan})
    order = sorted(range(len(rows)), key=lambda i: -rows[i]["lift"] if rows[i]["lift"] == rows[i]["lift"] else math.inf)
    for rank, i in enumerate(order, 1):
        rows[i]["rank"] = rank
    return rows


def focus(saliency: np.ndarray) -> float:
    """0 to 1: 1 - entropy of the density over its largest value, log of the pixels' number. 0 for a flat map."""
    p = metrics.density(saliency).ravel()
    return float(1 + (p[p > 0] * np.log(p[p > 0])).sum() / math.log(p.size)) if p.size > 1 else 0.0


def table(result: dict[str, dict[str, float]]) -> str:
    """One pair's scores as text."""
    lines = [f"{'':18}{'value':>9}{'centre bias':>13}{'shuffled':>10}"]
    for name, row in result.items():
        cells = [f"{row[k]:.3f}" if row[k] == row[k] else "undefined" for k in ("value", "centre_bias", "shuffled")]
        better = "" if HIGHER_IS_BETTER[name] else "  (less is better)"
        lines.append(f"{name:18}{cells[0]:>9}{cells[1]:>13}{cells[2]:>10}{better}")
    return "\n".join(lines)


def plain(value: Any) -> Any:
    """The same with NaN as None, which JSON has a word for."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mirrored(values: np.ndarray) -> list[np.ndarray]:
    return [values[:, ::-1], values[::-1], values[::-1, ::-1]]


def _rescaled(points: np.ndarray, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """Points (x, y) on a map of another size."""
    return (points * (target[1] / source[1], target[0] / source[0])).astype(int)


def _mean(values: list[float]) -> float:
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else math.nan
