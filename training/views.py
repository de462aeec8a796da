"""Pictures as networks see them: what trainers make of a sample."""

from __future__ import annotations

from PIL import Image

from .crops import centre


def cover(image: Image.Image, width: int, height: int, resample: int = Image.Resampling.BICUBIC) -> Image.Image:
    """The picture resized to cover width x height, and the middle of it."""
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    resized = image if size == image.size else image.resize(size, resample)
    return resized.crop(centre(*size, width, height))
