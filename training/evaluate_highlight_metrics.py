"""The three numbers of the PASCAL-Scribble evaluation, as pure functions of label maps.

An item whose image could not be made stays in every denominator: its pixels are in the confusion matrix as hit by
nothing, and its similarity and scribble ratio are 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..guidance.regions.voc import CLASSES, VOID

NOTHING = len(CLASSES)  # last column of the confusion matrix: pixels of images that were not made


def confusion(labels: np.ndarray, predicted: np.ndarray | None) -> np.ndarray:
    """(H, W) true and predicted VOC ids -> (21, 22) counts: row true, column predicted, the last one for no image.

    labels may hold `VOID` (ignored). predicted None: no image.
    """
    known = labels != VOID
    true = labels[known].astype(np.int64)
    other = np.full(true.shape, NOTHING) if predicted is None else predicted[known].astype(np.int64)
    columns = NOTHING + 1
    return np.bincount(true * columns + other, minlength=NOTHING * columns).reshape(NOTHING, columns)


def class_iou(counts: np.ndarray) -> np.ndarray:
    """(21, 22) confusion of the whole set -> (21,) intersection over union; NaN for a class that is nowhere."""
    hits = np.diagonal(counts).astype(float)
    union = counts.sum(1) + counts[:, :NOTHING].sum(0) - hits
    return np.divide(hits, union, out=np.full(NOTHING, np.nan), where=union > 0)


def scribble_ratio(predicted: np.ndarray | None, scribbles: Mapping[int, np.ndarray]) -> float:
    """Mean over the classes of |{predicted == class} and scribble| / |scribble|. predicted None: 0.

    predicted: (H, W) VOC ids. scribbles: (H, W) bool by VOC id, none empty.
    """
    if predicted is None:
        return 0.0
    return float(np.mean([(predicted[cells] == index).mean() for index, cells in scribbles.items()]))
