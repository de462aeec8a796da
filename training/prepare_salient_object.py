"""Pictures and masks of their main objects -> training data of a salient-object ControlNet.

    python -m limelight.training.prepare_salient_object --images DUTS/images --masks DUTS/masks --out data/objects
    python -m limelight.training.prepare_salient_object --images DUTS/images --masks DUTS/masks --out data/published \\
        --keep 0 --least 0 --most 1

A mask belongs to the picture of the same path or name, whatever the endings. In the result (column "mask") WHITE IS THE
OBJECT, as in the published data sets; the trainers turn it round where their network wants white for the background.
Soft edges stay soft. A mask in a transparency channel counts as well.

Of each picture a square of --resolution is taken at random, from the picture at a short side of --zoom times that,
among those squares that keep at least --keep of the object; the picture is brought down further where there is none.
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
from PIL import Image, ImageOps

from . import captions, crops, pictures, prepare
from .problems import Report

NAME = Path(__file__).stem
ZOOM = 1.5  # the published trainer: short side 768, crop 512
COLOURED = 32  # difference of channels from which a mask is coloured; less is the noise of a JPEG
BORDER = 0.9  # mean along the border from which a mask seems to be white for the background


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = prepare.parser(NAME, __doc__)
    group = parser.add_argument_group("objects")
    group.add_argument("--masks", type=Path, required=True, help="folder of masks, white for the object")
    group.add_argument("--mask_suffix", default="", help="what mask names have after the picture's, such as _mask")
    group.add_argument("--invert_masks", action="store_true", help="the masks are black for the object")
    group.add_argument("--crops", type=prepare.positive, default=1, help="of each picture (default %(default)s)")
    group.add_argument(
        "--keep", type=prepare.share, default=0.9, help="share of the object in each crop; 0: any (default %(default)s)"
    )
    group.add_argument(
        "--zoom", type=float, default=ZOOM, help="largest scale of the picture, in crops (default %(default)s)"
    )
    for name, default, word in (("--least", 0.01, "less"), ("--most", 0.9, "more")):
        group.add_argument(
            name,
            type=prepare.share,
            default=default,
            help=f"leave out crops that the object fills {word} than this (default %(default)s)",
        )
    options = parser.parse_args(argv)
    if options.zoom < 1:
        parser.error(f"--zoom {options.zoom}: expected 1 or more")
    return options


def build(options: argparse.Namespace, device: Any) -> prepare.Make:
    """How samples are made. Raises LimelightError."""
    masks = prepare.Masks(options.masks, options.mask_suffix)
    caption = captions.captioner(options, options.images, device)

    def make(items: Iterable[prepare.Item], report: Report) -> Iterator[dict[str, Any]]:
        samples = prepare.opened(items, options, report)
        both = prepare.with_masks(samples, masks, partial(fitted_mask, invert=options.invert_masks), report)
        cut = cut_out(both, options, report)
        return captions.captioned(cut, caption, options.batch, report, options.no_captions)

    return make


def fitted_mask(stored: Image.Image, size: tuple[int, int], invert: bool) -> Image.Image:
    """A stored mask, white for the object, as large as its picture. Raises BrokenPicture also for an empty one and for
    one that seems to be inverted."""
    mask = object_mask(stored)
    mask = pictures.fitted(ImageOps.invert(mask) if invert else mask, size)
    values = np.asarray(mask)
    if values.max() < 128:
        raise pictures.BrokenPicture("empty mask")
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    if border.mean() > 255 * BORDER:
        raise pictures.BrokenPicture("mask white along the border: is it --invert_masks?")
    return mask


def object_mask(image: Image.Image) -> Image.Image:
    """A stored mask -> mode L. Its transparency counts, if it has one that is not the same everywhere."""
    if pictures.has_alpha(image):
        alpha = image.convert("RGBA").getchannel("A")
        if len(set(alpha.getextrema())) > 1:
            return alpha
    if image.mode not in pictures.GREY:
        colours = np.asarray(pictures.rgb(image))
        if np.ptp(colours, axis=2).max() > COLOURED:  # a map of classes: what has a colour is an object
            return Image.fromarray(np.where(colours.any(2), 255, 0).astype(np.uint8))
    return pictures.stretched(pictures.grey(image))


def cut_out(samples: Iterable[dict[str, Any]], options: argparse.Namespace, report: Report) -> Iterator[dict[str, Any]]:
    """Pictures with masks -> squares with masks. What cannot be as the options want it is reported and left out."""
    side = options.resolution
    for sample in samples:
        for i in range(options.crops):
            rng = np.random.default_rng([options.seed, zlib.crc32(sample["path"].as_posix().encode()), i])
            for short in crops.scales(side, options.zoom):
                mask = crops.with_short_side(sample["mask"], short)
                box, kept = crops.around(np.asarray(mask), side, options.keep, rng)
                if kept >= options.keep:
                    break
            mask = mask.crop(box)
            filled = np.asarray(mask).mean() / 255
            problem = (
                f"object does not fit: a square of the whole height or width has {kept:.0%} of it, see --keep"
                if kept < options.keep
                else f"object too small: {filled:.1%} of the crop, see --least"
                if filled < options.least
                else f"object too large: {filled:.1%} of the crop, see --most"
                if filled > options.most
                else None
            )
            if problem:
                report(sample["path"].as_posix(), problem)
                continue
            image = crops.with_short_side(sample["image"], short).crop(box)
            yield sample | {"key": f"{sample['key']}_{i}", "image": image, "mask": mask}


def run(argv: list[str]) -> None:
    """The whole program. Raises StepFailed or LimelightError with a message for the person."""
    prepare.run(NAME, arguments(argv), build)


if __name__ == "__main__":
    sys.exit(prepare.main(lambda: run(sys.argv[1:])))
