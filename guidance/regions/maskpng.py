"""Masks as text: base64 of an 8-bit gray PNG, so that a region document stays plain JSON."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from ..errors import LimelightError

MAX_SIDE = 4096  # pixels
MAX_TEXT = 24 * 2**20  # characters of base64: an incompressible mask of the largest size


def encode(mask: np.ndarray) -> str:
    """(h, w) in [0, 1] -> base64 of a PNG. Values are rounded to 1/255."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(text: Any, path: str = "png") -> np.ndarray:
    """base64 of a PNG -> (h, w) float32 in [0, 1]. ``path`` is the place named in errors."""
    from PIL import Image

    if not isinstance(text, str) or len(text) > MAX_TEXT:
        found = f"{len(text)} characters" if isinstance(text, str) else f"a value of type {type(text).__name__}"
        raise LimelightError(
            f"{path}: found {found}; expected base64 text of an 8-bit gray PNG, at most {MAX_TEXT} characters."
        )
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
        mode, size = image.mode, image.size
        wanted = mode == "L" and max(size) <= MAX_SIDE
        pixels = np.asarray(image) if wanted else None
    except Exception as error:  # Pillow raises many kinds for damaged files; all of them mean the same to the user
        raise LimelightError(
            f"{path}: cannot be read as a PNG ({type(error).__name__}: {error}). Expected base64 text of an 8-bit gray "
            "PNG; write the file again and encode all of it."
        ) from error
    if pixels is None:
        raise LimelightError(
            f"{path}: found a PNG of {size[0]}x{size[1]} pixels, kind {mode}; expected 8-bit gray (kind L), at most "
            f"{MAX_SIDE}x{MAX_SIDE}. Convert or shrink the mask."
        )
    return pixels.astype(np.float32) / 255
