"""Saliency maps: where viewers should look. (H, W) or (B, H, W) float32 in [0, 1]; 1 draws most, 0 nothing.

Amplitude has meaning: a map need not reach 1 (the example map of GazeFusion peaks at 0.70), so nothing here changes
it unasked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .. import checks
from ..errors import LimelightError

VERSION = 1
MAX_BLOBS = 64
MAX_SIDE = 8192
MODES = ("attract", "suppress")
BLOB_KEYS = ("x", "y", "sx", "sy", "angle", "amplitude", "mode")
BLEND: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "larger": np.maximum,
    "smaller": np.minimum,
    "mean": lambda a, b: (a + b) / 2,
    "sum": lambda a, b: np.minimum(a + b, 1),
    "product": np.multiply,
}
# Standard deviations of where people look without regard to the picture, in shares of width and height: variance 0.22
# across and 0.45 of that along, in half widths (Clarke and Tatler, Vision Research 2014), on pictures of 4:3.
CENTRE_SIGMA = math.sqrt(0.22) / 2, math.sqrt(0.22 * 0.45) / 2 * 4 / 3


def parse_blobs(value: Any) -> list[dict[str, Any]]:
    """{"version": 1, "blobs": [...]} -> its blobs, checked and complete. See `gaussians` for what they mean."""
    value = checks.mapping(value, "saliency", ("version", "blobs"))
    if value.get("version") != VERSION:
        raise LimelightError(f"saliency.version: found {checks.show(value.get('version'))}; expected {VERSION}.")
    return [
        _blob(blob, f"blobs[{i}]") for i, blob in enumerate(checks.listed(value.get("blobs"), "blobs", 0, 64, "blobs"))
    ]


def _blob(value: Any, path: str) -> dict[str, Any]:
    value = {"angle": 0.0, "amplitude": 1.0, "mode": MODES[0], **checks.mapping(value, path, BLOB_KEYS)}
    limits = {"x": (-1, 2), "y": (-1, 2), "sx": (0.005, 4), "sy": (0.005, 4), "angle": (-360, 360), "amplitude": (0, 1)}
    blob = {key: checks.number(value.get(key), f"{path}.{key}", *limit) for key, limit in limits.items()}
    if value["mode"] not in MODES:
        raise LimelightError(f"{path}.mode: found {checks.show(value['mode'])}; expected 'attract' or 'suppress'.")
    return {**blob, "mode": value["mode"]}


def gaussians(blobs: list[dict[str, Any]], height: int, width: int) -> np.ndarray:
    """Anisotropic Gaussians -> (H, W): 1 - prod(1 - g) over those that attract, times prod(1 - g) over the others.

    g = amplitude exp(-(u/sx)^2/2 - (v/sy)^2/2), (u, v) the offset from the centre (x, y) turned back by angle. x and y
    are in shares of width and height; sx, sy and the offset in shares of the short side; angle in degrees, clockwise on
    the screen. Pixels count at their middles. One blob alone is exactly its Gaussian.
    """
    short = min(height, width)
    x, y = (np.arange(width) + 0.5) / short, ((np.arange(height) + 0.5) / short)[:, None]
    unseen, spared = np.ones((height, width)), np.ones((height, width))
    for blob in blobs:
        across, along = x - blob["x"] * width / short, y - blob["y"] * height / short
        cos, sin = math.cos(math.radians(blob["angle"])), math.sin(math.radians(blob["angle"]))
        u, v = across * cos + along * sin, along * cos - across * sin
        rest = 1 - blob["amplitude"] * np.exp(-((u / blob["sx"]) ** 2 + (v / blob["sy"]) ** 2) / 2)
        if blob["mode"] == "attract":
            unseen *= rest
        else:
            spared *= rest
    return ((1 - unseen) * spared).astype(np.float32)


def centre_bias(height: int, width: int) -> np.ndarray:
    """(H, W), peak 1: where people look whatever the picture shows, a Gaussian of `CENTRE_SIGMA`."""
    x, y = (np.arange(width) + 0.5) / width - 0.5, (np.arange(height) + 0.5) / height - 0.5
    across, along = ((value / sigma) ** 2 for value, sigma in zip((x, y), CENTRE_SIGMA, strict=True))
    return np.exp(-(across + along[:, None]) / 2).astype(np.float32)


def blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """(..., H, W) smoothed by a Gaussian of `sigma` pixels; the picture goes on mirrored beyond its borders.

    Done on the cosine transform, whose basis is mirrored so by itself: exact for any width, and the sum stays.
    """
    from scipy.fft import dctn, idctn

    if sigma <= 0:
        return np.asarray(values, np.float32)
    waves = dctn(np.asarray(values, np.float32), axes=(-2, -1))
    for axis in (-2, -1):
        count = waves.shape[axis]
        damped = np.exp(-((np.pi * np.arange(count) / count * sigma) ** 2) / 2).astype(np.float32)
        waves *= damped if axis == -1 else damped[:, None]
    return np.maximum(idctn(waves, axes=(-2, -1)), 0).astype(np.float32)


def resize(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(B, H, W) -> (B, height, width), linear and smoothed where it shrinks: no new extremes, nothing cropped."""
    if maps.shape[-2:] == (height, width):
        return maps
    four = torch.from_numpy(np.ascontiguousarray(maps, np.float32))[:, None]
    return F.interpolate(four, (height, width), mode="bilinear", antialias=True)[:, 0].numpy()


def peak(values: np.ndarray, top: float = 1.0) -> np.ndarray:
    """(H, W) scaled so that its largest value is ``top``; a map of zeros stays as it is."""
    highest = float(values.max())
    return values * (top / highest) if highest > 0 else values


def stretched(values: np.ndarray) -> np.ndarray:
    """(H, W) moved and scaled to 0..1, as every map that GazeFusion was trained on. A flat map has no such form."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise LimelightError(
            f"saliency: found a flat map ({low:g} everywhere), which cannot be stretched to 0..1. Use another "
            "normalisation, or draw where viewers should look."
        )
    return (values - low) / (high - low)


def warnings(values: np.ndarray) -> list[str]:
    """What is odd about one (H, W) map, in words; nothing is changed."""
    found = []
    if values.min() == values.max():
        found.append(f"the map is flat ({float(values.max()):g} everywhere): it says nothing about where to look")
    elif float((values > 0.5 * values.max()).mean()) > 0.6:
        found.append("more than 60 % of the map is bright: attention that is wanted everywhere is wanted nowhere")
    return found
