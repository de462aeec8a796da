"""Pictures -> training data of a saliency ControlNet: crops, maps of where people look, captions.

    python -m limelight.training.prepare_saliency --images photos --predictor unisal_salicon.pth --out data/saliency
    accelerate launch -m limelight.training.prepare_saliency --images coco/train2017 --captioner \\
        Salesforce/blip2-opt-2.7b-coco --predictor eml/res_decoder.pth --maps published --out data/gazefusion

Each picture is brought to a short side of --resolution and cut into squares, each half a square further than the one
before (GazeFusion's way), or taken otherwise (--crops). A predictor looks at each crop, its aspect kept (EML-Net alone
sees 640x480 always), and the map is written without loss, as large as the crop, white where people look: column
"saliency".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..guidance.errors import LimelightError
from ..guidance.saliency.maps import blur
from ..models import saliency_files
from ..models.emlnet import BLUR, EMLNet
from ..models.saliency import SaliencyNetwork
from ..models.unisal import DOMAINS
from ..tools.console import say
from . import captions, crops, prepare
from .problems import Report

NAME = Path(__file__).stem
WITHOUT_FILE = {"classic": saliency_files.CLASSIC, "signature": saliency_files.SIGNATURE}
MAPS = ("kept", "published")
BLACK = 1.0  # mean of 0 to 255 up to which a picture counts as black; GazeFusion's
FLAT = 1e-3  # range of a map below which it says nothing


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = prepare.parser(NAME, __doc__)
    group = parser.add_argument_group("saliency")
    group.add_argument(
        "--predictor",
        default="classic",
        metavar="FILE",
        help="weights of UNISAL, MediaAttention-Ads or EML-Net (one of its three files), or classic or signature, "
        "which need no file and are much less accurate (default %(default)s)",
    )
    group.add_argument("--domain", choices=DOMAINS, default="SALICON", help="UNISAL's viewers (default %(default)s)")
    group.add_argument(
        "--maps",
        choices=MAPS,
        default=MAPS[0],
        help="kept: the values as predicted, 1 the most. published: smoothed by 10 pixels at 512, and each map "
        "stretched from 0 to 1 (default %(default)s)",
    )
    group.add_argument(
        "--crops",
        choices=crops.WAYS,
        default=crops.WAYS[0],
        help="squares: as many as fit, overlapping by half. centre: one square. whole: all of the picture "
        "(default %(default)s)",
    )
    return parser.parse_args(argv)


def build(options: argparse.Namespace, device: Any) -> prepare.Make:
    """How samples are made; loads predictor and captioner. Raises LimelightError."""
    network = predictor(options.predictor, options.domain).to(device).eval()
    if network.low_accuracy:
        say(f"{network.label} only finds what stands out. A better predictor: {saliency_files.PUBLISHED['UNISAL']}")
    caption = captions.captioner(options, options.images, device)

    def make(items: Iterable[prepare.Item], report: Report) -> Iterator[dict[str, Any]]:
        cut = cut_out(prepare.opened(items, options, report), options.resolution, options.crops, report)
        told = captions.captioned(cut, caption, options.batch, report, options.no_captions)
        return with_maps(told, network, device, options.batch, options.maps == "published", report)

    return make


def predictor(choice: str, domain: str = "SALICON") -> SaliencyNetwork:
    """A network by the name of `WITHOUT_FILE` or by its file. Raises LimelightError."""
    if choice in WITHOUT_FILE:
        return saliency_files.WEIGHTLESS[WITHOUT_FILE[choice]]()
    if not Path(choice).is_file():
        raise LimelightError(
            f"--predictor {choice}: there is no such file. Expected {', '.join(WITHOUT_FILE)}, or the weights of "
            f"UNISAL ({saliency_files.PUBLISHED['UNISAL']}), MediaAttention-Ads or EML-Net."
        )
    return saliency_files.build(Path(choice), domain)


def cut_out(samples: Iterable[dict[str, Any]], side: int, way: str, report: Report) -> Iterator[dict[str, Any]]:
    """Pictures -> their crops. Those that are nearly black are reported and left out."""
    for sample in samples:
        image = crops.with_short_side(sample["image"], side)
        for i, box in enumerate(crops.boxes(way, *image.size)):
            crop = image.crop(box)
            if np.asarray(crop).mean() <= BLACK:
                report(f"{sample['path'].as_posix()} (crop {i})", "nearly black")
                continue
            yield sample | {"key": f"{sample['key']}_{i}", "image": crop}


def with_maps(
    samples: Iterable[dict[str, Any]],
    network: SaliencyNetwork,
    device: Any,
    batch: int,
    published: bool,
    report: Report,
) -> Iterator[dict[str, Any]]:
    """Adds "saliency". Samples whose map says nothing are reported and left out."""
    samples = iter(samples)
    while group := list(islice(samples, batch)):
        maps: dict[str, np.ndarray] = {}
        for size in dict.fromkeys(one["image"].size for one in group):  # pictures as a whole differ in size
            alike = [one for one in group if one["image"].size == size]
            images = torch.stack([torch.from_numpy(np.array(one["image"])) for one in alike]) / 255
            found = network.predict(images, device=device, chunk=batch).numpy()
            maps |= {one["key"]: each for one, each in zip(alike, found, strict=True)}
        for sample in group:
            values = finished(maps[sample["key"]], published, isinstance(network, EMLNet))
            if values is None:
                report(sample["path"].as_posix(), f"flat saliency map: of {sample['key']}")
            else:
                yield sample | {"saliency": Image.fromarray((255 * values).round().astype(np.uint8))}


def finished(values: np.ndarray, published: bool, smooth: bool) -> np.ndarray | None:
    """(H, W), not below 0, as predicted -> in [0, 1] as written; None if it has no contrast or is not finite.

    published: smoothed, unless it is `smooth` already, then S <- (S - min S) / (max S - min S).
    """
    if published and not smooth:
        values = blur(values, BLUR * min(values.shape))
    low, high = float(values.min()), float(values.max())
    if not high - low > FLAT:
        return None
    return (values - low) / (high - low) if published else values.clip(0, 1)


def run(argv: list[str]) -> None:
    """The whole program. Raises StepFailed or LimelightError with a message for the person."""
    prepare.run(NAME, arguments(argv), build)


if __name__ == "__main__":
    sys.exit(prepare.main(lambda: run(sys.argv[1:])))
