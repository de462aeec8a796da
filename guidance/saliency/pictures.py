"""Pictures of saliency: heat over the image, and regions with their share of attention."""

from __future__ import annotations

import numpy as np

from ..attention.sheet import resize
from ..regions.overlay import PALETTE, legible
from ..regions.raster import opencv

LINE = 2  # pixels of an outline, at least


def heat(image: np.ndarray, saliency: np.ndarray, opacity: float) -> np.ndarray:
    """(H, W, 3) and (h, w) in [0, 1] -> (H, W, 3): the map in colours from blue (0) to red (1) over it."""
    cv2 = opencv()
    values = resize(saliency, *image.shape[:2])
    colours = cv2.applyColorMap((values * 255).round().astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return image * (1 - opacity) + colours / np.float32(255) * opacity


def regions(picture: np.ndarray, masks: np.ndarray, labels: list[str]) -> np.ndarray:
    """(H, W, 3) and (R, h, w) -> the picture with each region's outline and label in its colour."""
    from PIL import Image, ImageDraw

    cv2 = opencv()
    height, width = picture.shape[:2]
    canvas = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    size = int(min(max(min(height, width) / 26, 9), 48))
    places = []
    for i, mask in enumerate(masks):
        code = PALETTE[i % len(PALETTE)]
        colour = int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
        inside = (resize(mask, height, width) >= 0.5).astype(np.uint8)
        contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colour, max(LINE, size // 6), cv2.LINE_AA)
        rows, columns = np.nonzero(inside)
        if len(rows):
            places.append((labels[i], colour, int(columns.min()), int(rows.min())))
    drawing = Image.fromarray(canvas)
    draw = ImageDraw.Draw(drawing)
    for label, colour, x, y in places:
        text, font = legible(label, size)
        box = draw.textbbox((0, 0), text, font)
        place = max(0, min(x, width - int(box[2]) - 2)), max(0, min(y, height - int(box[3]) - 2))
        draw.rectangle(draw.textbbox(place, text, font), colour)
        draw.text(place, text, (255, 255, 255) if sum(colour) < 400 else (0, 0, 0), font)
    return np.asarray(drawing, np.float32) / 255
