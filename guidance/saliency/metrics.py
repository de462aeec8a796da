"""Scores of a saliency map, as the MIT/Tuebingen benchmark and its library pysaliency define them.

P is the prediction, Q a reference map, F points that were looked at. Maps are (H, W) arrays of any scale, at least one
pixel, finite; otherwise LimelightError. Points are (N, 2) whole numbers (x, y) inside the map; a point that is there
twice counts twice, but for `auc_borji`. A score that is not defined is NaN, never a made-up number: the docstrings
name every such case.

Kuemmerer, Wallis and Bethge, "Saliency Benchmarking Made Easy" (ECCV 2018); Bylinskii et al., "What do different
evaluation metrics tell us about saliency models?" (TPAMI 2019).
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import LimelightError

EPSILON = 2.2204e-16  # of the benchmark's KL divergence
JITTER = 1e-7  # standard deviation of the noise that breaks ties in AUC-Judd
MINIMUM = 1e-20  # added to a map before the logarithm of its density


def cc(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Pearson's correlation of P and Q, -1 to 1.

    P constant and Q not: 0. Q constant: NaN (nothing to correlate with).
    """
    p, q = checked(prediction), checked(reference, like=prediction)
    if q.min() == q.max():
        return math.nan
    if p.min() == p.max():
        return 0.0
    return float(np.corrcoef(p.ravel(), q.ravel())[0, 1])


def sim(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Similarity, sum of min(p, q) over pixels of the `density` of each map: 0 to 1. A map of zeros counts as flat."""
    return float(np.minimum(density(prediction), density(checked(reference, like=prediction))).sum())


def kl(prediction: np.ndarray, reference: np.ndarray) -> float:
    """KL divergence of P's density from Q's in nats, sum of q log(eps + q / (p + eps)): 0 is best; not symmetric."""
    p, q = density(prediction), density(checked(reference, like=prediction))
    return float((q * np.log(EPSILON + q / (p + EPSILON))).sum())


def nss(prediction: np.ndarray, points: np.ndarray) -> float:
    """Normalised scanpath saliency: mean over F of (P(f) - mean P) / std P. 0 is chance; a flat map has 0."""
    p, (x, y) = checked(prediction), _inside(points, prediction)
    spread = p.std() if p.min() < p.max() else 0
    return float((p[y, x] - p.mean()).mean() / spread) if spread else 0.0


def auc(prediction: np.ndarray, points: np.ndarray, others: np.ndarray | None = None) -> float:
    """Area under the ROC curve that tells F from other points by P: 0.5 is chance, 1 the best.

    others: (M, 2) points; None: every pixel of the map. Given the points that were looked at in other images, this is
    sAUC, which gives nothing for mere centre bias. Equals the mean over F of the share of the others with a lower
    value, ties by half.
    """
    p, (x, y) = checked(prediction), _inside(points, prediction)
    rest = p.ravel() if others is None else p[tuple(_inside(others, prediction)[::-1])]
    rest = np.sort(rest)
    lower, not_higher = (np.searchsorted(rest, p[y, x], side) for side in ("left", "right"))
    return float((lower + not_higher).mean() / 2 / len(rest))


def auc_judd(prediction: np.ndarray, points: np.ndarray, seed: int = 42) -> float:
    """AUC of Judd et al. (ICCV 2009): thresholds at the values of F, against all pixels that nobody looked at.

    Noise of `JITTER` from NumPy's legacy generator breaks ties, as in pysaliency, so that the value is the same to the
    last digits. NaN where every pixel was looked at (as in a map of one pixel).
    """
    p, (x, y) = checked(prediction), _inside(points, prediction)
    p = p + np.random.RandomState(seed).randn(*p.shape) * JITTER
    unseen = np.ones(p.shape, bool)
    unseen[y, x] = False
    positives, negatives = p[y, x], p[unseen]
    if not len(negatives):
        return math.nan
    ends = max(positives.max(), negatives.max()) + 1, min(positives.min(), negatives.min())
    return _area(positives, negatives, np.concatenate([positives, ends]))


def auc_borji(
    prediction: np.ndarray, points: np.ndarray, seed: int = 42, splits: int = 100, step: float = 0.1
) -> float:
    """AUC of Borji et al. (TIP 2013): against as many random pixels as there are points, the mean over `splits` draws.

    The map is scaled to 0..1; thresholds are `step` apart. As in the benchmark's code a pixel counts once, however
    often it was looked at. NaN for a flat map, which cannot be scaled.
    """
    p, (x, y) = checked(prediction), _inside(points, prediction)
    if p.min() == p.max():
        return math.nan
    p = (p - p.min()) / (p.max() - p.min())
    positives = p.ravel()[np.unique(y * p.shape[1] + x)]
    drawn = p.ravel()[np.random.default_rng(seed).integers(p.size, size=(splits, len(positives)))]
    areas = []
    for negatives in drawn:
        thresholds = np.arange(0, max(positives.max(), negatives.max()) + 1e-12, step)
        areas.append(_area(positives, negatives, thresholds, close=True))
    return float(np.mean(areas))


def information_gain(log_prediction: np.ndarray, points: np.ndarray, log_baseline: np.ndarray) -> float:
    """Mean over F of log2 p(f) - log2 b(f), in bits a point: how much more P knows than the baseline b.

    Both are natural logarithms of densities (see `log_density`).
    """
    p, (x, y) = checked(log_prediction), _inside(points, log_prediction)
    b = checked(log_baseline, like=log_prediction)
    return float((p[y, x] - b[y, x]).mean() / math.log(2))


def density(values: np.ndarray, minimum: float = 0.0) -> np.ndarray:
    """The map shifted to have nothing below 0, `minimum` added, divided by its sum; a map of zeros becomes flat."""
    values = checked(values)
    values = values - min(values.min(), 0) + minimum
    total = values.sum()
    return values / total if total else np.full(values.shape, 1 / values.size)


def log_density(values: np.ndarray) -> np.ndarray:
    """Natural logarithm of the density, with `MINIMUM` added to the map as pysaliency does."""
    return np.log(density(values, MINIMUM))


def sample(values: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(count, 2) points (x, y) drawn from the map's density: how people would look who follow it exactly."""
    p = density(values)
    drawn = np.random.default_rng(seed).choice(p.size, size=count, p=p.ravel())
    return np.stack([drawn % p.shape[1], drawn // p.shape[1]], 1)


def checked(values: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """(H, W) -> float64. like: an array that must have the same shape."""
    values = np.asarray(values, float)
    if values.ndim != 2 or not values.size:
        raise LimelightError(f"saliency: found a map of shape {values.shape}; expected (height, width), not empty.")
    if not np.isfinite(values).all():
        raise LimelightError("saliency: found values that are not numbers (NaN or infinite); expected finite ones.")
    if like is not None and values.shape != np.shape(like):
        raise LimelightError(
            f"saliency: found maps of {values.shape[1]}x{values.shape[0]} and "
            f"{np.shape(like)[1]}x{np.shape(like)[0]} pixels; expected one size. Resize one of them."
        )
    return values


def _inside(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N, 2) -> (2, N): x and y. Raises LimelightError for none, and for points beyond the map."""
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise LimelightError(f"fixations: found an array of shape {points.shape}; expected (points, 2), at least one.")
    height, width = np.shape(values)
    if (points < 0).any() or (points >= (width, height)).any():
        raise LimelightError(f"fixations: found points outside the map of {width}x{height} pixels.")
    return points.T.astype(int)


def _area(positives: np.ndarray, negatives: np.ndarray, thresholds: np.ndarray, close: bool = False) -> float:
    """Area under the ROC curve through (0, 0) and the rates at the thresholds; ``close``: and through (1, 1)."""
    falling = np.sort(thresholds)[::-1]
    rates = [
        np.concatenate([[0], 1 - np.searchsorted(np.sort(side), falling) / len(side), [1] * close])
        for side in (positives, negatives)
    ]
    hits, alarms = rates
    return float(((hits[1:] + hits[:-1]) * np.diff(alarms)).sum() / 2)
