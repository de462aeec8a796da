"""Picture files -> PIL images as training wants them: upright, 8 bits, grey or RGB, of one size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
GREY = frozenset({"1", "L", "La", "LA", "I", "I;16", "I;16B", "I;16L", "F"})
ASPECT = 0.01  # how far, as a share, the aspect of a mask may be from its picture's; sizes are rounded


class BrokenPicture(ValueError):
    """A file that is missing or no picture, or that ends too early. The message says what is wrong, not which file."""


def read(source: Path | bytes) -> Image.Image:
    """A picture as it is stored, decoded and turned upright. Raises BrokenPicture."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise BrokenPicture("file is missing") from None
    except Image.UnidentifiedImageError:
        raise BrokenPicture("cannot be read: not a picture, or of an unknown kind") from None
    except Exception as error:  # decoders of broken files raise nearly anything
        raise BrokenPicture(f"cannot be read: {str(error) or type(error).__name__}") from None


def plain(image: Image.Image) -> Image.Image:
    """-> mode L of a picture that is stored in greys, RGB of any other. Transparent parts become white."""
    return grey(image) if image.mode in GREY else rgb(image)


def rgb(image: Image.Image) -> Image.Image:
    """-> mode RGB. Transparent parts become white; 16 bits become 8."""
    if image.mode in GREY:
        return grey(image).convert("RGB")
    if has_alpha(image):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def grey(image: Image.Image) -> Image.Image:
    """-> mode L. Transparent parts become white; 16 bits become 8."""
    if image.mode.startswith("I"):  # PIL's own conversion cuts off at 255
        values = np.asarray(image, np.float64)
        return _from_levels(values / (257 if values.max(initial=0) > 255 else 1))
    if image.mode == "F":  # of floating-point files the usual range
        return _from_levels(np.asarray(image) * 255)
    if has_alpha(image):
        return rgb(image.convert("RGBA")).convert("L")
    return image if image.mode == "L" else image.convert("L")


def _from_levels(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def stretched(mask: Image.Image) -> Image.Image:
    """A mask of mode L; one that was stored as 0 and 1 becomes 0 and 255."""
    return mask.point(lambda value: 255 * value) if mask.getextrema()[1] == 1 else mask


def has_alpha(image: Image.Image) -> bool:
    """Whether a picture has transparent parts, or could."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two (width, height) show the same frame, up to `ASPECT` and to rounding by a pixel."""
    across, down = size[0] * other[1], size[1] * other[0]
    return abs(across - down) <= max(ASPECT * max(across, down), max(size), max(other))


def fitted(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """A mask or a map at its picture's size (width, height). Raises BrokenPicture for one of another aspect."""
    if image.size == size:
        return image
    if not same_aspect(image.size, size):
        raise BrokenPicture(
            f"of another aspect than its picture: it is {image.width}x{image.height}, the picture {size[0]}x{size[1]}"
        )
    return image.resize(size, resample)
