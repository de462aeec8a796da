"""The published evaluation of highlight guidance, on PASCAL-Scribble: do objects lie where they were scribbled?

    python -m limelight.training.evaluate_highlight --voc VOCdevkit/VOC2012 --segmenter deeplab.pt \\
        --clip clip-vit-large-patch14 --checkpoint v1-5-pruned-emaonly.safetensors --out runs/first

For each picture of VOC 2012 with ScribbleSup's scribbles it asks for "a photography of a dog, a cat and people", guided
along the scribbles, and scores the image:

  miou            what the segmenter sees in the image against the photo's label map: one confusion matrix over all
                  items, mean over the classes
  t2i_sim         cosine of CLIP's embeddings of the image and of the prompt
  scribble_ratio  share of a class's scribble on which the segmenter sees the class: mean over classes, then items

The protocol is that of Highlight- and Scribble-Guided Diffusion (50 steps, CFG 7.5, lines 20 pixels wide), less its
mistakes: label map and scribbles go through the same letterbox, and what it adds counts for nothing (the label map was
stretched); CLIP reads the whole prompt (its end was cut off); an item that fails counts as hit nowhere and as 0 (it was
dropped). A run that is stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..bench import table
from ..guidance.regions.scribbles import LINE_WIDTH, TEMPLATE
from ..guidance.regions.voc import CLASSES
from ..tools.client import HostClient, WorkflowError
from ..tools.console import StepFailed, main_guard, say
from ..tools.in_process import ROOT
from .evaluate_highlight_data import Item, read_items
from .evaluate_highlight_graph import api_graph, read_workflow, set_inputs
from .evaluate_highlight_images import check_settings, make_images, read_records
from .evaluate_highlight_metrics import class_iou, confusion, scribble_ratio
from .evaluate_highlight_models import CLIP_WHERE, SEGMENTER_WHERE, Clip, Segmenter

NAME = "evaluate-highlight"
WORKFLOW = ROOT / "workflows" / "highlight_basic.json"
# The published sampler is PLMS; ipndm is the host's linear multistep of the same order.
PROTOCOL = ("KSampler.steps=50", "KSampler.cfg=7.5", "KSampler.sampler_name=ipndm")


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m limelight.training.{Path(__file__).stem}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("data set")
    data.add_argument("--voc", type=Path, required=True, help="VOC2012 folder: ImageSets, SegmentationClass, Scribbles")
    data.add_argument("--scribbles", type=Path, help="folder of ScribbleSup's XML files (default VOC/Scribbles)")
    data.add_argument("--split", default="trainval", help="ImageSets/Main/NAME.txt (default %(default)s)")
    data.add_argument("--count", type=int, help="only the first so many items")
    data.add_argument("--template", default=TEMPLATE, help="the prompt (default %(default)r)")
    data.add_argument("--names", nargs="+", default=[], metavar="CLASS=WORDS", help="what the prompt calls a VOC class")
    data.add_argument("--no-plurals", action="store_true", help='several dogs are "a dog", not "dogs"')
    data.add_argument("--line-width", type=float, default=LINE_WIDTH, help="pixels of the photo (default %(default)s)")
    make = parser.add_argument_group("images")
    make.add_argument("--host", metavar="URL", help="a running ComfyUI with Limelight; without it, in this process")
    make.add_argument(
        "--comfyui", type=Path, help="the ComfyUI folder for that (default COMFYUI_PATH, or dev.py's copy)"
    )
    make.add_argument("--packs", type=Path, nargs="+", default=[], help="custom-node folders to load besides Limelight")
    make.add_argument(
        "--workflow", type=Path, help="as the front end saves it, or API format (default highlight_basic)"
    )
    make.add_argument("--output", help="id or file name prefix of its SaveImage, if it has several")
    make.add_argument("--checkpoint", help="name of the checkpoint as the host lists it")
    make.add_argument("--set", nargs="+", default=[], metavar="NODE.INPUT=VALUE", help="e.g. KSampler.steps=20")
    make.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("W", "H"), help="default 512 512")
    make.add_argument("--seed", type=int, default=0, help="any whole number (default %(default)s)")
    make.add_argument("--unguided", action="store_true", help="without highlights: the baseline")
    make.add_argument("--retry-failed", action="store_true", help="try items again that failed before")
    score = parser.add_argument_group("scores")
    score.add_argument("--segmenter", type=Path, help="TorchScript file or transformers folder, VOC classes")
    score.add_argument("--clip", type=Path, help="transformers folder of a CLIP model")
    score.add_argument("--device", help="for both (default cuda if there is one, else cpu)")
    score.add_argument("--images-only", action="store_true", help="make the images, do not score them")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for images, items.jsonl, scores.jsonl, table.json"
    )
    parser.add_argument("--label", help="name of the row (default the folder's)")
    return parser.parse_args(argv)


def run(argv: list[str]) -> None:
    """The whole program. Raises StepFailed with a message for the person."""
    options = arguments(argv)
    missing = [("--segmenter", options.segmenter, SEGMENTER_WHERE), ("--clip", options.clip, CLIP_WHERE)]
    for name, path, where in missing:
        if path is None and not options.images_only:
            raise StepFailed(f"{name} is missing (or --images-only, to score later).\n{where}")
    size = (options.size[0], options.size[1])
    if min(size) < 64 or any(side % 8 for side in size):
        raise StepFailed(f"--size {size[0]} {size[1]}: expected multiples of 8 from 64 on")
    naming = {
        "template": options.template,
        "names": dict(_pair(text) for text in options.names),
        "line_width": options.line_width,
        "plurals": not options.no_plurals,
    }
    places = {"split": options.split, "scribbles": options.scribbles, "count": options.count}
    items = read_items(options.voc, size, **places, **naming)
    say(f"{len(items)} items, such as {items[0].name}: {items[0].prompt!r}")
    workflow = options.workflow or WORKFLOW
    inputs = [*(() if options.workflow else PROTOCOL), *options.set]
    if options.checkpoint:
        inputs.append(f"CheckpointLoaderSimple.ckpt_name={options.checkpoint}")
    chosen = {"size": size, "seed": options.seed, "unguided": options.unguided, "inputs": inputs}
    chosen |= {"workflow": read_workflow(workflow), "output": options.output}
    check_settings(options.out, naming | chosen)
    records = read_records(options.out, options.retry_failed)
    left = [item for item in items if item.name not in records]
    # before any image is made, so that a wrong path is known at once
    judges = () if options.images_only else (Segmenter(options.segmenter), Clip(options.clip))
    if left:
        with host_of(options) as host:
            graph = api_graph(chosen["workflow"], host.object_info(), options.output)
            set_inputs(graph, inputs)
            make_images(left, host, graph, options.out, options.seed, options.unguided)
    if judges:
        import torch

        for judge in judges:
            judge.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        rows = score(
            items, read_records(options.out), options.out, *judges, options.label or options.out.resolve().name
        )
        command = shlex.join(["python", "-m", f"limelight.training.{Path(__file__).stem}", *argv])
        table.write(NAME, rows, command, options.out / "table.json")


@contextlib.contextmanager
def host_of(options: argparse.Namespace) -> Iterator[Any]:
    """The running host, or one in this process. Raises StepFailed if there is none."""
    if options.host:
        client = HostClient(options.host)
        try:
            client.object_info()
        except OSError as error:
            raise StepFailed(f"--host {options.host}: no ComfyUI answers ({error})") from None
        yield client
        return
    if options.comfyui:
        os.environ["COMFYUI_PATH"] = str(options.comfyui)
    from ..tools.in_process_host import InProcessHost

    try:
        host = InProcessHost(packs=[ROOT, *(pack.resolve() for pack in options.packs)])
    except (FileNotFoundError, WorkflowError) as error:
        raise StepFailed(str(error)) from None
    try:
        yield host
    finally:
        host.close()


def score(
    items: list[Item], records: dict[str, dict], out: Path, segmenter: Segmenter, clip: Clip, label: str
) -> list[dict]:
    """The rows of the table: all items, then the classes' IoU. Each item's scores go to ``out``/scores.jsonl."""
    counts, singly = np.zeros((len(CLASSES), len(CLASSES) + 1), np.int64), []
    with (out / "scores.jsonl").open("w", encoding="utf-8") as file:
        for item in tqdm(items, desc="scores", unit="image"):
            similarity, predicted = 0.0, None
            if "image" in records[item.name]:
                with Image.open(out / records[item.name]["image"]) as picture:
                    image = picture.convert("RGB")
                predicted = segmenter(image, item.letterbox.target)
                similarity = clip(image, item.prompt)
            counts += confusion(item.labels(), predicted)
            ratio = scribble_ratio(predicted, item.scribbles())
            singly.append({"name": item.name, "t2i_sim": similarity, "scribble_ratio": ratio})
            file.write(json.dumps(singly[-1] | {"failed": predicted is None}) + "\n")
    iou = class_iou(counts)
    overall = {
        "row": label,
        "miou": float(np.nanmean(iou)),
        **{name: float(np.mean([one[name] for one in singly])) for name in ("t2i_sim", "scribble_ratio")},
        "items": len(items),
        "failed": sum("image" not in records[item.name] for item in items),
    }
    by_class = zip(CLASSES, iou.tolist(), strict=True)
    return [overall, *({"row": name, "miou": value} for name, value in by_class if not np.isnan(value))]


def _pair(text: str) -> tuple[str, str]:
    name, equals, words = text.partition("=")
    if not equals or not name.strip() or not words.strip():
        raise StepFailed(f"--names {text}: expected CLASS=WORDS, such as tvmonitor='computer screen'")
    return name.strip(), words.strip()


if __name__ == "__main__":
    sys.exit(main_guard(lambda: run(sys.argv[1:])))
