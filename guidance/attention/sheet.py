"""Pictures of a recording: heat maps over the image, and the loss curve. All are (h, w, 3) float32 in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..regions.document import Document
from ..regions.overlay import color_of, draw_overlay, legible
from ..regions.raster import opencv

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

    from ..regions.document import Highlight
    from .recording import Recording, Step
    from .score import Score

MAX_SHEET = 8192  # pixels across: more steps get smaller cells
MIN_CELL, MAX_FONT = 32, 28
MAX_GAP = MAX_FONT // 2
PAPER, INK, PALE = (255, 255, 255), (30, 30, 30), (215, 215, 215)
READABLE = 384  # pixels of the short side from which labels can be read
FILL = 0.3  # opacity of the highlights under their scores


def heat_sheet(
    recording: Recording, number: int, image: np.ndarray, steps: list[Step], cell: int, opacity: float
) -> np.ndarray:
    """One row a highlight, one column a step: the phrase's share of the attention as heat over the image.

    number: which image of the run. image: (H, W, 3) in [0, 1]. cell: longer side of one picture in pixels.
    opacity: of the heat, 0..1. Colours run from 0 (black) to 1 (white), the same for all maps.
    """
    from PIL import Image, ImageDraw

    columns, count = len(steps) + 1, len(recording.highlights)
    height, width = _cell_size(image.shape[:2], cell, columns)
    size = min(max(round(min(height, width) / 13), 11), MAX_FONT)
    gap, title = size // 2, 2 * size
    across, down = width + gap, height + title + gap
    canvas = Image.new("RGB", (columns * across + gap + 6 * size, title + count * down), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, text in enumerate(["image", *(f"step {step.index} ({100 * step.percent:.0f} %)" for step in steps)]):
        _text(draw, (gap + column * across, gap), text, size, width)
    small = resize(image, height, width)
    for row, recorded in enumerate(recording.highlights):
        top = title + row * down
        _swatch(draw, (gap, top + gap), recorded.highlight, size, canvas.width - 2 * gap)
        outline = _outline(recorded.highlight, height, width)
        cells = [_laid(outline, small)]
        for step in steps:
            maps = recording.whole(step, row)
            heat = small * 0.5 if maps is None else _heat(small, maps[number].numpy(), opacity)
            cells.append(_laid(outline, heat))
        for column, picture in enumerate(cells):
            corner = (gap + column * across, top + title)
            canvas.paste(Image.fromarray(_bytes(picture)), corner)
            if column:
                loss = float(steps[column - 1].losses[number, row])
                _tag(draw, corner, "off" if math.isnan(loss) else f"loss {loss:.2f}", size, height)
    _scale(canvas, (gap + columns * across, 2 * title), size, height)
    return np.asarray(canvas, np.float32) / 255


def loss_curve(recording: Recording, number: int, width: int = 768, height: int = 384) -> np.ndarray:
    """Loss over steps, a line a highlight in its colour, for one image of the run."""
    from PIL import Image, ImageDraw

    cv2 = opencv()
    steps, size = recording.steps, 15
    losses = np.stack([step.losses[number].numpy() for step in steps])
    left, right, top, bottom = 6 * size, width - 14 * size, size, height - 3 * size
    unit, ceiling = _ticks(float(np.nanmax(losses, initial=0.5)), 5)
    last = max(recording.planned - 1, steps[-1].index, 1)

    def at(step: float, loss: float) -> tuple[int, int]:
        return round(left + (right - left) * step / last), round(bottom - (bottom - top) * loss / ceiling)

    canvas = np.full((height, width, 3), PAPER, np.uint8)
    levels = [unit * k for k in range(round(ceiling / unit) + 1)]
    for level in levels:
        cv2.line(canvas, at(0, level), at(last, level), PALE, 1)
    cv2.line(canvas, at(0, 0), at(last, 0), INK, 1)
    for k, recorded in enumerate(recording.highlights):
        points = [(at(step.index, loss), k) for step, loss in zip(steps, losses[:, k], strict=True) if loss == loss]
        color = color_of(recorded.highlight, k)
        for (a, _), (b, _) in zip(points, points[1:], strict=False):
            cv2.line(canvas, a, b, color, 2, cv2.LINE_AA)
        for point, _ in points:
            cv2.circle(canvas, point, 3, color, cv2.FILLED, cv2.LINE_AA)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for level in levels:
        _text(draw, (left - size // 2, at(0, level)[1]), f"{level:g}", size, 4 * size, "rm")
    every = round(_ticks(last, 8)[0]) or 1
    for index in range(0, last + 1, every):
        _text(draw, (at(index, 0)[0], bottom + size // 3), str(index), size, 4 * size, "ma")
    _text(draw, ((left + right) // 2, height - size // 4), "step", size, 8 * size, "mb")
    _text(draw, (left // 4, (top + bottom) // 2), "loss", size, 4 * size, "lm")
    room = (bottom - top) // (2 * size)
    for k, recorded in enumerate(recording.highlights[:room]):
        _swatch(draw, (right + size, top + 2 * size * k), recorded.highlight, size, 12 * size)
    if len(recording.highlights) > room:
        _text(draw, (right + size, bottom), f"and {len(recording.highlights) - room} more", size, 12 * size)
    return np.asarray(picture, np.float32) / 255


def score_picture(
    image: np.ndarray | None, highlights: tuple[Highlight, ...], masks: list[np.ndarray], scores: list[Score]
) -> np.ndarray:
    """Highlights filled in their colours and named with their IoU, objects outlined in white.

    image: (H, W, 3) in [0, 1]; None: a gray canvas of the masks' size. masks: (h, w), 0 or 1, one a highlight.
    """
    cv2 = opencv()
    height, width = (masks[0] if image is None else image).shape[:2]
    scale = max(1.0, READABLE / min(height, width))
    height, width = round(scale * height), round(scale * width)
    canvas = np.full((height, width, 3), 0.5, np.float32) if image is None else resize(image, height, width)
    picture = _bytes(canvas)
    for mask in masks:
        inside = (resize(mask, height, width) >= 0.5).astype(np.uint8)
        contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for colour, line in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.drawContours(picture, contours, -1, colour, line, cv2.LINE_AA)
    named = [replace(h, phrase=f"{h.phrase} {s.iou:.2f}") for h, s in zip(highlights, scores, strict=True)]
    filled, alpha = draw_overlay(Document(tuple(named)), height, width, FILL)
    return picture / np.float32(255) * (1 - alpha) + filled


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) or (H, W, C) -> (height, width[, C]): area means where it shrinks, cubic where it grows."""
    cv2 = opencv()
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.clip(cv2.resize(np.ascontiguousarray(image, np.float32), (width, height), interpolation=method), 0, 1)


def _cell_size(shape: tuple[int, int], cell: int, columns: int) -> tuple[int, int]:
    scale = cell / max(shape)
    scale = min(scale, (MAX_SHEET / columns - MAX_GAP) / shape[1])
    return max(round(shape[0] * scale), MIN_CELL), max(round(shape[1] * scale), MIN_CELL)


def _heat(image: np.ndarray, share: np.ndarray, opacity: float) -> np.ndarray:
    height, width = image.shape[:2]
    colours = _colours(resize(share, height, width))
    return image * (1 - opacity) + colours * opacity


def _colours(share: np.ndarray) -> np.ndarray:
    cv2 = opencv()
    return cv2.applyColorMap((share * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1] / np.float32(255)


def _outline(highlight: Highlight, height: int, width: int) -> np.ndarray:
    """-> (h, w, 2): alpha of a white outline, and of a dark line on either side that sets it off from any heat."""
    cv2 = opencv()
    _, ring = draw_overlay(Document((highlight,)), height, width, 0.0, labels=False)
    thin, wide = (cv2.dilate(ring[..., 0], np.ones((side, side), np.uint8)) for side in (2, 4))
    return np.stack([thin, wide - thin], -1)


def _laid(outline: np.ndarray, picture: np.ndarray) -> np.ndarray:
    white, dark = outline[..., :1], outline[..., 1:]
    return picture * (1 - dark) * (1 - white) + white


def _bytes(picture: np.ndarray) -> np.ndarray:
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def _text(draw: ImageDraw, place: tuple[int, int], text: str, size: int, room: int, anchor: str = "la") -> None:
    """One line, cut to ``room`` pixels."""
    text, font = legible(" ".join(text.split()), size)
    while len(text) > 1 and font.getlength(text) > room:
        text = text[:-4] + "..." if len(text) > 4 else text[:-1]
    draw.text(place, text, INK, font, anchor)


def _swatch(draw: ImageDraw, place: tuple[int, int], highlight: Highlight, size: int, room: int) -> None:
    """A square in the highlight's colour and its phrase."""
    x, y = place
    draw.rectangle((x, y, x + size - 1, y + size - 1), color_of(highlight, 0))
    _text(draw, (x + size + size // 2, y + size // 2), highlight.phrase, size, room - 2 * size, "lm")


def _tag(draw: ImageDraw, corner: tuple[int, int], text: str, size: int, height: int) -> None:
    """A small caption in the lower left corner of a cell."""
    text, font = legible(text, max(size - 2, 9))
    place = (corner[0] + size // 3, corner[1] + height - size // 3)
    draw.rectangle(draw.textbbox(place, text, font, "lb"), (0, 0, 0))
    draw.text(place, text, (255, 255, 255), font, "lb")


def _scale(canvas, place: tuple[int, int], size: int, height: int) -> None:
    """What the heat's colours mean."""
    from PIL import Image, ImageDraw

    bar = np.repeat(_colours(np.linspace(1, 0, height, dtype=np.float32)[:, None]), size, 1)
    canvas.paste(Image.fromarray(_bytes(bar)), place)
    draw = ImageDraw.Draw(canvas)
    for share in (0, 0.5, 1):
        y = place[1] + round((1 - share) * (height - 1))
        _text(draw, (place[0] + size + size // 2, y), f"{100 * share:.0f} %", size, 4 * size, "lm")


def _ticks(highest: float, most: int) -> tuple[float, float]:
    """-> a round distance between at most about ``most`` marks, and the first mark at or above ``highest``."""
    raw = highest / most
    power = 10.0 ** math.floor(math.log10(raw))
    unit = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return unit, unit * math.ceil(highest / unit - 1e-9)
