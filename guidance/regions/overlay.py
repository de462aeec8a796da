"""A picture of the region document: each highlight's regions in its colour, with outline and phrase."""

from __future__ import annotations

import functools
import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from .document import Document, Highlight
from .raster import coverage, opencv

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

PALETTE = (
    "#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#42d4f4",
    "#f032e6", "#bfef45", "#fabed4", "#469990", "#9a6324", "#ffe119",
)  # fmt: skip

# Pillow's own font knows ASCII only. Common fonts with more letters, the widest coverage first.
_SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "msyh.ttc",
    "PingFang.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
    "DejaVuSans.ttf",
)


def color_of(highlight: Highlight, index: int) -> tuple[int, int, int]:
    """The highlight's colour as (red, green, blue) in 0..255; without one, the palette's for its place in the list."""
    code = highlight.color or PALETTE[index % len(PALETTE)]
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def draw_overlay(
    document: Document, height: int, width: int, opacity: float = 0.45, labels: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the document once, to be laid over any number of images of that size.

    ``opacity``: of the filled regions, 0..1; outlines and labels are always opaque. ``labels`` False: no phrases.
    -> colour (h, w, 3) in [0, 1], already multiplied by alpha, and alpha (h, w, 1) in [0, 1], both float32, so that
    ``picture = image * (1 - alpha) + colour``.
    """
    cv2 = opencv()
    layer = np.zeros((height, width, 4), np.float32)
    line = max(1, round(min(height, width) / 300))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * line + 1, 2 * line + 1))
    phrases = []
    for index, highlight in enumerate(document.highlights):
        color = color_of(highlight, index)
        for number, instance in enumerate(highlight.instances, 1):
            cover = coverage(instance.shapes, height, width)
            inside = (cover >= 0.5 * cover.max()).astype(np.uint8)
            _lay(layer, color, opacity * cover)
            _lay(layer, color, (cv2.dilate(inside, brush) - inside).astype(np.float32))
            rows, columns = np.nonzero(inside)
            text = _label(highlight, number)
            phrases.append((text, color, (int(columns.min() + columns.max()) // 2, int(rows.min()))))
    if labels:
        _write(layer, phrases)
    return layer[..., :3], layer[..., 3:]


def _lay(layer: np.ndarray, color: tuple[int, int, int], alpha: np.ndarray) -> None:
    paint = np.array([*(part / 255 for part in color), 1], np.float32)
    layer *= 1 - alpha[..., None]
    layer += alpha[..., None] * paint


def _label(highlight: Highlight, number: int) -> str:
    text = " ".join(highlight.phrase.split())
    text = text if len(text) <= 40 else text[:37] + "..."
    if highlight.occurrence > 1:
        text += f" (mention {highlight.occurrence})"
    if len(highlight.instances) > 1:
        text += f" {number}/{len(highlight.instances)}"
    return text if highlight.strength > 0 else text + " (off)"


def _write(layer: np.ndarray, labels: list[tuple[str, tuple[int, int, int], tuple[int, int]]]) -> None:
    """Labels above their regions, pushed down where one would cover another, kept inside the canvas."""
    from PIL import Image, ImageDraw

    height, width = layer.shape[:2]
    size = int(min(max(min(height, width) / 26, 9), 48))
    pad = size // 4
    taken: list[tuple[int, int, int, int]] = []
    for text, color, (middle, top) in labels:
        text, font = legible(text, size)
        left, above, right, below = font.getbbox(text)
        box_width, box_height = int(right - left) + 2 * pad, int(below - above) + 2 * pad
        x = max(0, min(middle - box_width // 2, width - box_width))
        y = max(0, min(top - box_height - pad, height - box_height))
        for x0, y0, x1, y1 in sorted(taken, key=lambda box: box[1]):
            if x < x1 and x + box_width > x0 and y < y1 and y + box_height > y0:
                y = y1 + 1
        taken.append((x, y, x + box_width, y + box_height))
        patch = Image.new("RGB", (box_width, box_height), color)
        bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
        ink = (0, 0, 0) if bright else (255, 255, 255)
        ImageDraw.Draw(patch).text((pad - left, pad - above), text, font=font, fill=ink)
        target = layer[y : y + box_height, x : x + box_width]
        target[..., :3] = np.asarray(patch, np.float32)[: target.shape[0], : target.shape[1]] / 255
        target[..., 3] = 1


def legible(text: str, size: int) -> tuple[str, FreeTypeFont | ImageFont]:
    """The text and a font of ``size`` pixels for it; plain letters instead of those that no font here has."""
    from PIL import ImageFont

    font = None if text.isascii() else _system_font(size)
    if text.isascii() or font is not None:
        return text, font or ImageFont.load_default(size)
    parts = unicodedata.normalize("NFKD", text)  # "ü" becomes "u" and dots: drop the dots
    plain = "".join(part for part in parts if not unicodedata.combining(part)).encode("ascii", "replace").decode()
    return plain, ImageFont.load_default(size)


@functools.lru_cache(maxsize=8)
def _system_font(size: int) -> FreeTypeFont | None:
    """A font for any text; None if the machine has none."""
    from PIL import ImageFont

    for name in _SYSTEM_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None
