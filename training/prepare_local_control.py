"""Pictures -> training data of a local edge adapter: crops, their edges, captions and, where there are any, regions.

    python -m limelight.training.prepare_local_control --images photos --captions captions.csv --out data/edges
    python -m limelight.training.prepare_local_control --images VOC2012/JPEGImages --masks VOC2012/SegmentationClass \\
        --labels --captioner Salesforce/blip-image-captioning-base --out data/edges

Column "hint": white lines on black, found in each crop. Column "mask", with --masks: a region of the crop, white, such
as a segmented thing. In which region a sample is controlled is drawn anew each time it is trained on, from shapes of
all sizes and, where they are there, from these masks (see training/masks.py); nothing of that is written here.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..guidance.local import edges
from . import captions, crops, pictures, prepare
from .problems import Report

NAME = Path(__file__).stem
KINDS = ("canny", "soft")
VOID = 255  # of label maps: pixels of no class


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = prepare.parser(NAME, __doc__)
    group = parser.add_argument_group("edges")
    group.add_argument(
        "--edges", choices=KINDS, default=KINDS[0], help="crisp lines, or how strong each is (default %(default)s)"
    )
    group.add_argument("--low", type=float, default=edges.LOW, help="of Canny, 0 to 255 (default %(default)s)")
    group.add_argument("--high", type=float, default=edges.HIGH, help="of Canny, 0 to 255 (default %(default)s)")
    group.add_argument(
        "--edge_side",
        type=int,
        default=0,
        help=f"find them in the crop at this short side, {edges.SDXL_SIDE} for SDXL; 0: as it is (default %(default)s)",
    )
    group.add_argument(
        "--crops",
        choices=crops.WAYS,
        default="centre",
        help="centre: one square. squares: as many as fit, overlapping by half. whole: all of the picture "
        "(default %(default)s)",
    )
    regions = parser.add_argument_group("regions")
    regions.add_argument("--masks", type=Path, help="folder of masks, white for the region; by the pictures' names")
    regions.add_argument("--mask_suffix", default="", help="what mask names have after the picture's, such as _mask")
    regions.add_argument(
        "--labels", action="store_true", help="they are label maps: one class of each crop is drawn (not 0, not 255)"
    )
    regions.add_argument(
        "--least",
        type=prepare.share,
        default=0.01,
        help="least share of a crop that a region has (default %(default)s)",
    )
    options = parser.parse_args(argv)
    if options.labels and not options.masks:
        parser.error("--labels: expected --masks with it")
    return options


def build(options: argparse.Namespace, device: Any) -> prepare.Make:
    """How samples are made. Raises LimelightError."""
    masks = prepare.Masks(options.masks, options.mask_suffix) if options.masks else None
    caption = captions.captioner(options, options.images, device)

    def make(items: Iterable[prepare.Item], report: Report) -> Iterator[dict[str, Any]]:
        samples = prepare.opened(items, options, report)
        if masks is not None:
            samples = prepare.with_masks(samples, masks, partial(stored_mask, labels=options.labels), report)
        cut = cut_out(samples, options, report)
        return captions.captioned(cut, caption, options.batch, report, options.no_captions)

    return make


def stored_mask(stored: Image.Image, size: tuple[int, int], labels: bool) -> Image.Image:
    """What is stored, mode L, as large as its picture; of label maps the numbers of the classes. Raises
    BrokenPicture."""
    if not labels:
        mask = pictures.stretched(pictures.grey(stored))
    elif stored.mode in ("P", "L"):
        mask = Image.fromarray(np.asarray(stored).copy())  # the indices themselves
    else:
        raise pictures.BrokenPicture(f"no label map: of kind {stored.mode}, expected an indexed or grey PNG")
    return pictures.fitted(mask, size, resampling(labels))


def cut_out(samples: Iterable[dict[str, Any]], options: argparse.Namespace, report: Report) -> Iterator[dict[str, Any]]:
    """Pictures -> crops with "hint" and, if they had one, "mask". Crops without edges or region are left out."""
    for sample in samples:
        image = crops.with_short_side(sample["image"], options.resolution)
        whole = sample.get("mask")
        if whole is not None:
            whole = crops.with_short_side(whole, options.resolution, resampling(options.labels))
        for i, box in enumerate(crops.boxes(options.crops, *image.size)):
            name = f"{sample['path'].as_posix()} (crop {i})"
            made = sample | {"key": f"{sample['key']}_{i}", "image": image.crop(box)}
            made["hint"] = hint(made["image"], options)
            if made["hint"].getextrema()[1] == 0:
                report(name, "no edges")
                continue
            if whole is not None:
                rng = np.random.default_rng([options.seed, zlib.crc32(sample["path"].as_posix().encode()), i])
                region = region_of(np.asarray(whole.crop(box)), options.labels, options.least, rng)
                if region is None:
                    report(name, "no region in the crop")
                    continue
                made["mask"] = Image.fromarray(region)
            yield made


def hint(image: Image.Image, options: argparse.Namespace) -> Image.Image:
    """The edges of a crop, mode L, white lines on black."""
    values = np.asarray(image, np.float32) / 255
    seen = edges.at_side(values, options.edge_side)
    lines = edges.canny(seen, options.low, options.high) if options.edges == KINDS[0] else edges.soft(seen)
    lines = edges.enlarged(lines.astype(np.float32), *values.shape[:2])
    return Image.fromarray((255 * lines).round().astype(np.uint8))


def region_of(mask: np.ndarray, labels: bool, least: float, rng: np.random.Generator) -> np.ndarray | None:
    """(H, W) uint8 -> the region, 0 to 255, or None if none covers `least`. Of label maps one class at random."""
    if not labels:
        return mask if mask.mean() >= 255 * max(least, 1e-6) else None
    counts = np.bincount(mask.ravel(), minlength=256)
    counts[[0, VOID]] = 0
    fit = np.flatnonzero((counts > 0) & (counts >= least * mask.size))
    return np.where(mask == rng.choice(fit), 255, 0).astype(np.uint8) if len(fit) else None


def resampling(labels: bool) -> Image.Resampling:
    """How a mask is resized: classes have no values in between."""
    return Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR


def run(argv: list[str]) -> None:
    """The whole program. Raises StepFailed or LimelightError with a message for the person."""
    prepare.run(NAME, arguments(argv), build)


if __name__ == "__main__":
    sys.exit(prepare.main(lambda: run(sys.argv[1:])))
