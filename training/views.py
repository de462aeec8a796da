"""Pictures as networks see them: what trainers make of a sample."""

from __future__ import annotations

from PIL import Image

from .crops import centre


def covering(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The smallest (width, height) of the aspect of `size` into which width x height fits."""
    scale = max(width / size[0], height / size[1])
    return max(width, round(size[0] * scale)), max(height, round(size[1] * scale))


def cover(image: Image.Image, width: int, height: int, resample: int = Image.Resampling.BICUBIC) -> Image.Image:
    """The picture resized to cover width x height, and the middle of it."""
    if image.size == (width, height):
        return image
    size = covering(image.size, width, height)
    resized = image if size == image.size else image.resize(size, resample)
    return resized.crop(centre(*size, width, height))
