"""PASCAL-Scribble on disk: a VOC2012 folder with ScribbleSup's XML files -> prompts, highlights, label maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..guidance.errors import LimelightError
from ..guidance.regions import voc
from ..guidance.regions.document import Document
from ..guidance.regions.letterbox import Letterbox
from ..guidance.regions.raster import coverage
from ..guidance.regions.scribbles import LINE_WIDTH, compose, read_xml
from ..tools.console import StepFailed, say

WHERE = """\
PASCAL VOC 2012: VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ ; give the folder
VOCdevkit/VOC2012 that is in it. PASCAL-Scribble: https://jifengdai.org/downloads/scribble_sup/ ; put its XML files into
VOC2012/Scribbles, or name their folder with --scribbles."""


@dataclass(frozen=True)
class Item:
    """One picture of the data set, fitted into the frame of the image to generate (`letterbox`)."""

    name: str
    prompt: str
    document: Document
    """Its scribbles, one highlight a class, in the frame."""
    classes: tuple[int, ...]
    """VOC id of each highlight."""
    mask: Path
    letterbox: Letterbox

    def labels(self) -> np.ndarray:
        """(H, W) uint8 in the frame: VOC ids; `voc.VOID` where nothing is known, as in the bars beside the picture."""
        return self.letterbox.labels(_labels(self.mask), voc.VOID)

    def scribbles(self) -> dict[int, np.ndarray]:
        """The drawn lines of each class, (H, W) bool in the frame, by VOC id. Nothing of them is in the bars."""
        width, height = self.letterbox.target
        inside = self.letterbox.inside()
        drawn = {}
        for index, highlight in zip(self.classes, self.document.highlights, strict=True):
            shapes = [shape for instance in highlight.instances for shape in instance.shapes]
            cells = coverage(shapes, height, width) * inside
            drawn[index] = cells >= 0.5 * cells.max()  # a line thinner than a pixel keeps its best pixels
        return drawn


def read_items(
    folder: Path,
    size: tuple[int, int],
    template: str,
    names: Mapping[str, str],
    *,
    split: str = "trainval",
    scribbles: Path | None = None,
    line_width: float = LINE_WIDTH,
    plurals: bool = True,
    count: int | None = None,
) -> list[Item]:
    """Every picture of the split that has a label map and a scribble of an object, in the order of the split.

    size: (width, height) of the image to generate. names: what the prompt calls a class, by VOC name. count: at most so
    many. The rest: as for `guidance.regions.scribbles`. Scribbles of what VOC has no class for (PASCAL-Context's grass
    and sky) are left out, like the background. Raises StepFailed, with where to get what is missing, and with the file
    that is broken.
    """
    scribbles = scribbles or folder / "Scribbles"
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    masks = folder / "SegmentationClass"
    for path, what in ((listed, "the list of pictures"), (masks, "the label maps"), (scribbles, "the scribbles")):
        if not path.exists():
            raise StepFailed(f"{path} is missing ({what}).\n{WHERE}")
    unknown = sorted(names.keys() - set(voc.CLASSES[1:]))
    if unknown:
        raise StepFailed(f"--names: VOC has no class {', '.join(unknown)}; it has {', '.join(voc.CLASSES[1:])}")
    items: list[Item] = []
    other: set[str] = set()
    for line in listed.read_text(encoding="utf-8").splitlines():
        name = line.split()[0] if line.strip() else ""
        mask, xml = masks / f"{name}.png", scribbles / f"{name}.xml"
        if not name or not mask.is_file() or not xml.is_file():
            continue  # the list also has the pictures of VOC's other tasks
        letterbox = Letterbox(_size(mask), size)
        try:
            read = read_xml(xml.read_text(encoding="utf-8", errors="replace"), line_width, letterbox.source)
            known = {tag: instances for tag, instances in read.objects.items() if tag in voc.CLASSES}
            other |= read.objects.keys() - known.keys()
            if not known:
                continue  # there is nothing to ask for
            read = replace(read, objects=known)
            document, prompt = compose(read, size, template, names, plurals)
        except LimelightError as error:
            raise StepFailed(f"{xml}: {error}") from None
        classes = tuple(voc.CLASSES.index(tag) for tag in read.objects)
        items.append(Item(name, prompt, document, classes, mask, letterbox))
        if len(items) == count:
            break
    if other:
        say(f"left out: scribbles of {', '.join(sorted(other))}, which are no classes of VOC")
    if not items:
        raise StepFailed(
            f"no picture of {listed} has a label map in {masks} and scribbles of an object in {scribbles}.\n{WHERE}"
        )
    return items


def _size(mask: Path) -> tuple[int, int]:
    with Image.open(mask) as image:
        if image.mode not in ("P", "L"):
            raise StepFailed(
                f"{mask}: found an image of the kind {image.mode}; expected VOC's own indexed PNG, whose values are "
                "class ids. Take it from the original archive."
            )
        return image.size


def _labels(mask: Path) -> np.ndarray:
    with Image.open(mask) as image:
        labels = np.asarray(image)
    if (wrong := labels[(labels >= len(voc.CLASSES)) & (labels != voc.VOID)]).size:
        raise StepFailed(f"{mask}: found the class id {wrong[0]}; expected 0 to {len(voc.CLASSES) - 1} or {voc.VOID}.")
    return labels
