"""How well an object follows its highlight: numbers from a mask of the object and the region that was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from ..regions.document import Highlight
from ..regions.geometry import angle_between
from ..regions.raster import coverage
from ..regions.targets import moments

COVERED = 0.5  # share of an object's region from which it counts as covered
MIN_ANISOTROPY = 0.2  # (long - short) / (long + short) of the variances: a shape of aspect below 1.22 points nowhere


@dataclass(frozen=True)
class Score:
    """One highlight of one image. An empty mask scores 0 in `iou` and `coverage` and has no errors to measure."""

    phrase: str
    iou: float
    """Intersection over union of the mask and the drawn region, 0..1."""
    coverage: float
    """Share of the drawn region that the mask covers, 0..1: the "scribble ratio" of Scribble-Guided Diffusion."""
    centroid_error: float | None
    """Distance between the centroids, as a share of the image's short side. None: the mask is empty."""
    orientation_error: float | None
    """Degrees between the long axes, 0..90. None: the mask is empty, one of the two has no long axis, or the
    highlight has several objects."""
    objects: int
    """Regions of the highlight, one an object."""
    objects_covered: int
    """Those of which the mask covers at least half."""

    def to_dict(self) -> dict:
        """Plain JSON, rounded; the names say the units."""
        return {
            "phrase": self.phrase,
            "iou": round(self.iou, 4),
            "stroke_coverage": round(self.coverage, 4),
            "centroid_error": _rounded(self.centroid_error, 4),
            "orientation_error_deg": _rounded(self.orientation_error, 2),
            "objects": self.objects,
            "objects_covered": self.objects_covered,
        }


def score(highlight: Highlight, mask: np.ndarray) -> Score:
    """mask: (h, w) in [0, 1] of the objects that the phrase names, over the whole image; h and w in its aspect."""
    height, width = mask.shape
    regions = [coverage(instance.shapes, height, width) for instance in highlight.instances]
    region = np.maximum.reduce(regions)
    return Score(
        phrase=highlight.phrase,
        iou=iou(mask, region),
        coverage=covered(mask, region),
        centroid_error=centroid_distance(mask, region),
        orientation_error=orientation_difference(mask, region) if len(regions) == 1 else None,
        objects=len(regions),
        objects_covered=sum(covered(mask, one) >= COVERED for one in regions),
    )


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two (h, w) maps in [0, 1]: sum of minima over sum of maxima. 0 for two empty ones."""
    union = np.maximum(first, second).sum(dtype=np.float64)
    return float(np.minimum(first, second).sum(dtype=np.float64) / union) if union else 0.0


def covered(mask: np.ndarray, region: np.ndarray) -> float:
    """Share of the region that the mask covers, both (h, w) in [0, 1]: |mask & region| / |region|. 0 without one."""
    total = region.sum(dtype=np.float64)
    return float(np.minimum(mask, region).sum(dtype=np.float64) / total) if total else 0.0


def centroid_distance(first: np.ndarray, second: np.ndarray) -> float | None:
    """Distance between the centroids of two (h, w) maps in units of the short side. None if one is empty."""
    if not (first.any() and second.any()):
        return None
    a, b = (_moments(one)[0] for one in (first, second))
    return float((a - b).norm())


def orientation_difference(first: np.ndarray, second: np.ndarray) -> float | None:
    """Angle between the long axes of two (h, w) maps in degrees, 0..90. None if one is empty or has no long axis."""
    one, other = long_axis(first), long_axis(second)
    return None if one is None or other is None else angle_between(one, other)


def long_axis(mask: np.ndarray) -> float | None:
    """Direction of the long axis of an (h, w) map in radians in [-pi/2, pi/2], from +x towards +y (down).

    From the covariance: 1/2 atan2(2 xy, xx - yy). None if the map is empty or about as long as wide.
    """
    if not mask.any():
        return None
    (xx, xy), (_, yy) = _moments(mask)[1].tolist()  # trace 1
    if np.hypot(xx - yy, 2 * xy) < MIN_ANISOTROPY:
        return None
    return float(0.5 * np.arctan2(2 * xy, xx - yy))


def summary(scores: list[Score]) -> dict:
    """Means over highlights: of `iou` and `coverage` over all, of the errors over those that have one, else None."""
    errors = {
        "mean_centroid_error": [s.centroid_error for s in scores if s.centroid_error is not None],
        "mean_orientation_error_deg": [s.orientation_error for s in scores if s.orientation_error is not None],
    }
    return {
        "mean_iou": round(fmean(s.iou for s in scores), 4),
        "mean_stroke_coverage": round(fmean(s.coverage for s in scores), 4),
        **{name: round(fmean(values), 4) if values else None for name, values in errors.items()},
    }


def table(scores: list[Score]) -> str:
    """The scores as text with aligned columns and a last line of means. "-": nothing to measure."""
    means = summary(scores)
    head = ("highlight", "IoU", "coverage", "centroid", "orientation", "objects")
    rows = [
        (s.phrase, f"{s.iou:.2f}", f"{s.coverage:.2f}", _shown(s.centroid_error, ".3f"),
         _shown(s.orientation_error, ".0f", " deg"), f"{s.objects_covered}/{s.objects}")
        for s in scores
    ]  # fmt: skip
    last = (
        "mean",
        f"{means['mean_iou']:.2f}",
        f"{means['mean_stroke_coverage']:.2f}",
        _shown(means["mean_centroid_error"], ".3f"),
        _shown(means["mean_orientation_error_deg"], ".0f", " deg"),
        f"{sum(s.objects_covered for s in scores)}/{sum(s.objects for s in scores)}",
    )
    lines = [head, *rows, last]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def _moments(mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """-> centroid (2,) as (x, y) in units of the short side, and covariance (2, 2) of trace 1."""
    centroid, _, shape = moments(torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float64)))
    return centroid, shape


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else format(value, form) + unit
