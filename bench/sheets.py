"""The images of a bench beside each other, for looking at what the numbers say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .prompts import Stroke

ZOOM, MARGIN, LABEL = 2, 6, 16


def add_images_option(parser: argparse.ArgumentParser) -> None:
    """--images FOLDER."""
    parser.add_argument("--images", type=Path, help="folder for one PNG a prompt with the images of all rows")


def outline(region: np.ndarray) -> np.ndarray:
    """(H, W) -> bool: the region's outermost pixels."""
    inside = np.pad(region > 0, 1)
    inner = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return inside[1:-1, 1:-1] & ~inner


def outlined(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The image, uint8 (H, W, 3), with the rim of the region (H, W) drawn in."""
    return np.where(outline(region)[..., None], np.uint8([255, 0, 255]), image)


def save_sheet(
    folder: Path | None, index: int, caption: str, images: dict[str, np.ndarray], strokes: Sequence[Stroke] = ()
) -> None:
    """Write ``FOLDER/0007.png``: the labelled images in a row, strokes as thin lines. None: nothing is written."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    side = next(iter(images.values())).shape[0] * ZOOM
    sheet = Image.new("RGB", (MARGIN + len(images) * (side + MARGIN), side + 2 * LABEL + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 2), caption, "black")
    for column, (label, image) in enumerate(images.items()):
        x, y = MARGIN + column * (side + MARGIN), 2 * LABEL
        draw.text((x, LABEL), label, "#666666")
        sheet.paste(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), (x, y))
        for stroke in strokes:
            line = [(x + px * side, y + py * side) for px, py in stroke.points]
            draw.line(line, "white", 5)
            draw.line(line, "black", 2)
            draw.text(line[0], stroke.phrase, "black")
    sheet.save(folder / f"{index:04d}.png")
