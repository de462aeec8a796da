"""How much a subject grew: its mask before, against what a segmenter finds in the generated picture.

Masks are (H, W) in [0, 1] and count as subject from 0.5 on, so 0.9999 is as good as 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import LimelightError
from ..regions import raster

ATTACHED, DETACHED, LOST = (230, 25, 75), (67, 99, 216), (255, 225, 25)  # of the heat map: red, blue, yellow
OPACITY = 0.65


@dataclass(frozen=True)
class Change:
    """What changed between two masks of one size. Each (H, W) bool.

    before, after: the subject. attached: pixels of growth that hang together with the subject, farther from it than
    the jitter band. detached: new things elsewhere. lost: pixels of the subject that are gone, deeper in it than the
    band. distance, float32: from each pixel to the nearest of the subject, in pixels, 0 in it. band: in pixels.
    """

    before: np.ndarray
    after: np.ndarray
    attached: np.ndarray
    detached: np.ndarray
    lost: np.ndarray
    distance: np.ndarray
    band: float


def change(before: np.ndarray, after: np.ndarray, band: float = 0.0) -> Change:
    """The growth from before to after, by parts. band: pixels at the subject's edge that a segmenter may err by.

    A part of the growth (8-connected) is attached if it comes nearer to the subject than a gap of band plus one pixel.
    """
    before, after = before >= 0.5, after >= 0.5
    if not before.any():
        raise LimelightError(
            "before: found an empty mask (nothing is white); expected the subject, white. Connect the subject's mask."
        )
    if before.all():
        raise LimelightError(
            "before: found a mask that is white everywhere, so that there is nothing the subject could grow into. "
            "Connect the mask of the subject on its canvas."
        )
    away = _away(before)
    grown = after & ~before
    _, parts = raster.opencv().connectedComponents(grown.astype(np.uint8), connectivity=8, ltype=4)
    touches = np.zeros(int(parts.max()) + 1, bool)
    touches[np.unique(parts[grown & (away <= band + 1.5)])] = True  # 1.5: a diagonal neighbour touches, too
    attached = grown & touches[parts]
    return Change(
        before=before,
        after=after,
        attached=attached & (away > band),
        detached=grown & ~attached,
        lost=before & ~after & (_away(~before) > band),
        distance=away,
        band=band,
    )


def expansion(
    before: np.ndarray,
    after: np.ndarray,
    band: float = 0.0,
    images: tuple[np.ndarray, np.ndarray] | None = None,
    floor: np.ndarray | None = None,
) -> tuple[dict[str, Any], Change]:
    """All measures of one picture, and where they come from.

    images: the subject's picture and the generated one, (H, W, 3). floor: the mask that the same segmenter finds where
    nothing can have grown, in the subject alone on grey; what it seems to have grown there is no growth.

    - expansion: (area(after or before) - area(before)) / picture, of the paper (arXiv 2404.10157), here as a share
    - relative: the same over the subject's area
    - shrink: area(before without after) / subject
    - signed: (area(after) - area(before)) / picture, of the authors' notebook: growth and loss cancel
    - attached, detached, lost: see `Change`, over the subject's area
    - floor: attached of the floor mask; growth: attached less floor, 0 at least
    - reach: pixels from the subject to the farthest of attached
    - identity: mean absolute difference of the images in the subject, farther than the band from its edge; or None
    """
    found = change(before, after, band)
    picture, subject = found.before.size, int(found.before.sum())
    outside = int((found.after & ~found.before).sum())
    gone = int((found.before & ~found.after).sum())
    attached = int(found.attached.sum()) / subject
    base = int(change(before, floor, band).attached.sum()) / subject if floor is not None else 0.0
    report: dict[str, Any] = {
        "expansion": outside / picture,
        "relative": outside / subject,
        "shrink": gone / subject,
        "signed": (outside - gone) / picture,
        "attached": attached,
        "detached": int(found.detached.sum()) / subject,
        "lost": int(found.lost.sum()) / subject,
        "floor": base,
        "growth": max(0.0, attached - base),
        "reach": float(found.distance[found.attached].max(initial=0)),
        "identity": None,
    }
    if images is not None:
        deep = found.before & (_away(~found.before) > band)
        inside = deep if deep.any() else found.before
        report["identity"] = float(np.abs(images[0][inside] - images[1][inside]).mean())
    return report, found


def leak(found: Change, grow: float = 0.0, detached: bool = False) -> np.ndarray:
    """(H, W) bool: attached growth and what lies within ``grow`` pixels of it, never the subject itself.

    What joins it to the subject through the jitter band belongs to it. detached: new things elsewhere, too.
    """
    seeds = found.attached | found.detached if detached else found.attached
    if not seeds.any():
        return seeds
    near = _away(seeds)
    joint = found.after & (near <= found.band + 1.5)
    return (joint | (near <= grow)) & ~found.before


def drawn(picture: np.ndarray, found: Change) -> np.ndarray:
    """(H, W, 3) -> the picture with attached growth red, detached blue, loss yellow and the subject's outline white."""
    cv2 = raster.opencv()
    canvas = np.array(picture, np.float32)
    for mask, colour in ((found.attached, ATTACHED), (found.detached, DETACHED), (found.lost, LOST)):
        canvas[mask] = canvas[mask] * (1 - OPACITY) + np.float32(OPACITY / 255) * np.array(colour, np.float32)
    line = max(1, round(min(canvas.shape[:2]) / 300))
    outlines, _ = cv2.findContours(found.before.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, (1.0, 1.0, 1.0), line)
    return canvas


def _away(inside: np.ndarray) -> np.ndarray:
    """(H, W) bool -> float32: pixels from each pixel's middle to that of the nearest in the region, 0 in it."""
    return np.where(inside, 0, raster.distance(inside) + 0.5).astype(np.float32)
