"""PASCAL VOC's classes and the colours of its segmentation images. A class's id is its place in `CLASSES`."""

from __future__ import annotations

BACKGROUND = "background"
CLASSES = (
    BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOID = 255  # in label maps: boundary or unknown, counts for nothing

_WORDS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}


def words(name: str) -> str:
    """A class name as a prompt says it: "diningtable" -> "dining table"."""
    return _WORDS.get(name, name)


def color(index: int) -> tuple[int, int, int]:
    """The VOC colour of a label 0..255: its bits 0, 3, 6 are red's highest, bits 1, 4, 7 green's, bits 2, 5 blue's."""
    red, green, blue = (sum((index >> 3 * bit + channel & 1) << 7 - bit for bit in range(3)) for channel in range(3))
    return red, green, blue


def palette() -> list[int]:
    """The 256 colours as a flat list of 768 numbers, as an indexed image stores them."""
    return [part for index in range(256) for part in color(index)]
