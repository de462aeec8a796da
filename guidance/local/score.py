"""How well a picture follows lines inside a region, how little the rest was touched, and whether the border shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..regions import raster
from .edges import canny, gradients, soft

TOLERANCE = 2.0  # pixels that a line may be off
WEIGHTS = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333  # of the scales of MS-SSIM (Wang, Simoncelli and Bovik 2003)
WINDOW, SPREAD = 11, 1.5  # pixels of its Gaussian window, and its standard deviation
C1, C2 = 0.01**2, 0.03**2
RING = 2.0  # pixels on either side of the region's outline where its border would show
BESIDE = 4.0, 8.0  # pixels from the outline of the rings that it is compared with
FLOOR = 1e-6  # energy of a border where nothing is to be seen, for ratios


def match(found: np.ndarray, wanted: np.ndarray, region: np.ndarray, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Lines (H, W) bool in a region (H, W) bool -> precision, recall, f1 in [0, 1].

    precision: share of the found pixels that have a wanted one within `tolerance` pixels; recall: the other way round.
    A line may lie just outside the region to count as near. Nothing found: precision is NaN and f1 0; nothing wanted:
    recall is NaN and f1 0; neither: f1 is NaN.
    """
    precision, recall = near_share(found & region, wanted, tolerance), near_share(wanted & region, found, tolerance)
    if math.isnan(precision) and math.isnan(recall):
        return {"precision": precision, "recall": recall, "f1": float("nan")}
    both = [0.0 if math.isnan(share) else share for share in (precision, recall)]
    return {"precision": precision, "recall": recall, "f1": 2 * both[0] * both[1] / max(sum(both), 1e-12)}


def near_share(lines: np.ndarray, others: np.ndarray, tolerance: float) -> float:
    """Share of the pixels of `lines` that lie within `tolerance` pixels of `others`; NaN if there are none."""
    if not lines.any():
        return float("nan")
    return float((away(others)[lines] <= tolerance).mean())


def away(lines: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W): pixels from each centre to the nearest line's; infinite if there is none."""
    if not lines.any():
        return np.full(lines.shape, np.inf, np.float32)
    cv2 = raster.opencv()
    return cv2.distanceTransform((~lines).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def ms_ssim(first: np.ndarray, second: np.ndarray, region: np.ndarray) -> float:
    """Multi-scale structural similarity of two (H, W) in [0, 1] over a region (H, W) in [0, 1]: at most 1.

    As many of the five scales as the picture has room for, their weights made to sum to 1.
    """
    cv2 = raster.opencv()
    count = max(1, min(len(WEIGHTS), int(math.log2(max(min(first.shape) / WINDOW, 1))) + 1))
    weights = np.array(WEIGHTS[:count]) / sum(WEIGHTS[:count])
    region, value = region.astype(np.float32), 1.0
    first, second = (np.ascontiguousarray(each, np.float32) for each in (first, second))
    for scale, weight in enumerate(weights):
        blur = [cv2.GaussianBlur(x, (WINDOW, WINDOW), SPREAD) for x in (first, second, first**2, second**2)]
        mixed = cv2.GaussianBlur(first * second, (WINDOW, WINDOW), SPREAD) - blur[0] * blur[1]
        spread = blur[2] - blur[0] ** 2 + blur[3] - blur[1] ** 2
        seen = (2 * mixed + C2) / (spread + C2)
        if scale == count - 1:
            seen = seen * (2 * blur[0] * blur[1] + C1) / (blur[0] ** 2 + blur[1] ** 2 + C1)
        value *= max(float((seen * region).sum() / max(region.sum(), 1e-6)), 0.0) ** weight
        smaller = max(1, first.shape[1] // 2), max(1, first.shape[0] // 2)
        first, second, region = (cv2.resize(x, smaller, interpolation=cv2.INTER_AREA) for x in (first, second, region))
    return value


def outside_change(image: np.ndarray, plain: np.ndarray, region: np.ndarray) -> float:
    """Mean absolute difference of two pictures (H, W, 3) in [0, 1] outside a region (H, W) in [0, 1]; NaN without."""
    free = 1 - region
    return float((np.abs(image - plain).mean(2) * free).sum() / free.sum()) if free.sum() > 1e-3 else float("nan")


def border(image: np.ndarray, region: np.ndarray) -> tuple[float, float]:
    """Energy of the changes across a region's outline in a picture (H, W, 3), and its ratio to that beside it.

    Energy: mean square of the difference between pixels along the outline's normal, within `RING` of it. Beside: the
    same, along outlines further in and out. Much above 1 is a "wall", a line that follows the region instead of
    anything in the picture. NaN for a region without an outline.
    """
    inside = region >= 0.5
    if inside.all() or not inside.any():
        return float("nan"), float("nan")
    depth = raster.distance(~inside) - raster.distance(inside)  # pixels to the outline, positive in the region
    normal = np.stack(np.gradient(depth)[::-1])
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-6)
    slopes = np.stack([np.stack(gradients(image[..., c : c + 1])) / 8 for c in range(3)])
    energy = ((slopes * normal).sum(1) ** 2).max(0)
    ring, beside = np.abs(depth) <= RING, (np.abs(depth) >= BESIDE[0]) & (np.abs(depth) <= BESIDE[1])
    here = float(energy[ring].mean())
    around = float(energy[beside].mean()) if beside.any() else float("nan")
    return here, (here + FLOOR) / (around + FLOOR)


def scored(
    image: np.ndarray,
    wanted: np.ndarray,
    wanted_soft: np.ndarray,
    region: np.ndarray,
    plain: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """All scores of one picture (H, W, 3) in [0, 1]; undefined ones are NaN.

    wanted: lines of the reference, (H, W) bool; wanted_soft: the same as soft lines in [0, 1]. region: (H, W) in
    [0, 1]. plain: the picture of the same seed without it. -> edge_f1, edge_precision, edge_recall, ms_ssim inside;
    border_energy, border_ratio; and with plain its own edge_f1_plain and border_ratio_plain, outside_change, and
    outside_edges, the density of edges outside over that of plain.
    """
    inside, lines = region >= 0.5, canny(image)
    edge = match(lines, wanted, inside, tolerance)
    energy, ratio = border(image, region)
    found = {
        "edge_f1": edge["f1"],
        "edge_precision": edge["precision"],
        "edge_recall": edge["recall"],
        "ms_ssim": ms_ssim(soft(image), wanted_soft, region),
        "border_energy": energy,
        "border_ratio": ratio,
    }
    if plain is not None:
        other = canny(plain)
        free = (other & ~inside).sum()
        found |= {
            "edge_f1_plain": match(other, wanted, inside, tolerance)["f1"],
            "border_ratio_plain": border(plain, region)[1],
            "outside_change": outside_change(image, plain, region),
            "outside_edges": float((lines & ~inside).sum() / free) if free else float("nan"),
        }
    return found


def overlay(image: np.ndarray, wanted: np.ndarray, region: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """The picture (H, W, 3), paled, with its lines inside: green where wanted, red where not; blue: wanted and not
    there. The region's outline is magenta."""
    cv2 = raster.opencv()
    inside, lines = region >= 0.5, canny(image)
    shown = (0.35 * image + 0.1).astype(np.float32)
    near = away(wanted) <= tolerance
    shown[inside & wanted & (away(lines) > tolerance)] = 0.3, 0.5, 1.0
    shown[inside & lines & ~near] = 1.0, 0.25, 0.2
    shown[inside & lines & near] = 0.2, 0.9, 0.3
    shown[inside & (cv2.erode(inside.astype(np.uint8), np.ones((3, 3))) == 0)] = 1.0, 0.0, 1.0
    return shown


def table(result: dict[str, float]) -> str:
    """One picture's scores as text."""
    return "\n".join(
        f"{name.replace('_', ' '):20}{f'{value:.3f}' if math.isfinite(value) else 'undefined':>10}{_NOTES[name]}"
        for name, value in result.items()
    )


_NOTES = {
    "edge_f1": "  inside, of 1",
    "edge_precision": "  inside, of 1",
    "edge_recall": "  inside, of 1",
    "ms_ssim": "  of soft lines inside, of 1",
    "border_energy": "",
    "border_ratio": "  well above 1: the border shows",
    "edge_f1_plain": "  without control",
    "border_ratio_plain": "  without control",
    "outside_change": "  0 is untouched, of 1",
    "outside_edges": "  1: as many as without control",
}
