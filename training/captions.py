"""Captions of pictures: from text files beside them, from a table, or from a captioning model."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from ..guidance.errors import LimelightError
from .problems import Report

Caption = Callable[[list[dict[str, Any]]], list[str]]
"""Samples with "path" (within the folder of pictures) and "image" -> their captions, "" for none."""

FILES = ("file_name", "filename", "file", "image", "path")
TEXTS = ("text", "caption", "prompt")
QUESTION = "Describe this picture in one sentence."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `captioner`."""
    group = parser.add_argument_group("captions (without any of these: NAME.txt beside each picture)")
    one = group.add_mutually_exclusive_group()
    one.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="a table of captions: JSON lines, JSON or CSV with a column file_name and one of text, caption, prompt "
        "(metadata.jsonl, GazeFusion's prompts.json), or COCO's captions_*.json",
    )
    one.add_argument(
        "--captioner",
        metavar="MODEL",
        help="let a model look at each crop: folder or name of a transformers image-to-text model, such as "
        "Salesforce/blip2-opt-2.7b-coco, which GazeFusion was trained with",
    )
    one.add_argument("--no_captions", action="store_true", help="leave them empty; our trainers skip such samples")
    group.add_argument(
        "--caption_tokens", type=int, default=20, help="most tokens of --captioner (default %(default)s)"
    )
    group.add_argument(
        "--question",
        default=QUESTION,
        help="what a --captioner that holds conversations is asked (default %(default)r)",
    )


def captioner(options: argparse.Namespace, folder: Path, device: Any) -> Caption:
    """The source of captions that the options name. Raises LimelightError if it cannot be read."""
    if options.no_captions:
        return lambda samples: [""] * len(samples)
    if options.captions:
        table = read_table(options.captions)
        names = _by_bare_name(table)
        return lambda samples: [table.get(one["path"].as_posix(), names.get(one["path"].name, "")) for one in samples]
    if options.captioner:
        return model(options.captioner, device, options.caption_tokens, options.question)
    return lambda samples: [_beside(folder / one["path"]) for one in samples]


def captioned(
    samples: Iterable[dict[str, Any]], caption: Caption, batch: int, report: Report, may_lack: bool
) -> Iterator[dict[str, Any]]:
    """The samples with "text". Those without a caption are reported and left out, unless they may lack one."""
    samples = iter(samples)
    while group := list(islice(samples, batch)):
        for sample, text in zip(group, caption(group), strict=True):
            text = " ".join(text.split())
            if text or may_lack:
                yield sample | {"text": text}
            else:
                report(sample["path"].as_posix(), "empty caption")


def read_table(path: Path) -> dict[str, str]:
    """File name -> caption. The first caption counts where a picture has several. Raises LimelightError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
        else:
            rows = _json_rows(text)
    except (OSError, ValueError) as error:
        raise LimelightError(f"--captions {path}: cannot be read ({error}).") from None
    columns = rows[0].keys() if rows else ()
    file = next((name for name in FILES if name in columns), None)
    caption = next((name for name in TEXTS if name in columns), None)
    if file is None or caption is None:
        raise LimelightError(
            f"--captions {path}: found the columns {', '.join(columns) or 'none'}; expected one of {', '.join(FILES)} "
            f"and one of {', '.join(TEXTS)}."
        )
    table: dict[str, str] = {}
    for row in rows:
        table.setdefault(str(row.get(file)).replace("\\", "/").removeprefix("./"), str(row.get(caption) or ""))
    return table


def _json_rows(text: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(value, dict) and "annotations" in value:  # COCO
        names = {image["id"]: image["file_name"] for image in value["images"]}
        return [{"file_name": names[one["image_id"]], "text": one["caption"]} for one in value["annotations"]]
    if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()) and FILES[0] not in value:
        return [{"file_name": name, "text": one} for name, one in value.items()]
    return value if isinstance(value, list) else [value]


def _by_bare_name(table: dict[str, str]) -> dict[str, str]:
    """Captions by the name without folders, of names that occur once."""
    names: dict[str, list[str]] = {}
    for name, text in table.items():
        names.setdefault(name.rsplit("/", 1)[-1], []).append(text)
    return {name: texts[0] for name, texts in names.items() if len(texts) == 1}


def _beside(path: Path) -> str:
    for file in (path.with_suffix(".txt"), path.with_name(path.name + ".txt")):
        try:
            return file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            pass
    return ""


def model(name: str, device: Any, tokens: int, question: str) -> Caption:
    """A transformers image-to-text model, greedy, in half precision on a GPU. Raises LimelightError."""
    from ..tools.torchvision_ops import define_missing_operators

    define_missing_operators()  # before transformers, which imports torchvision
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name)
        network = AutoModelForImageTextToText.from_pretrained(
            name, dtype=torch.float32 if torch.device(device).type == "cpu" else torch.float16
        )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others
        first = (str(error).splitlines() or [""])[0]
        raise LimelightError(
            f"--captioner {name}: cannot be loaded ({type(error).__name__}: {first}). Expected the folder, or the name "
            "on the Hugging Face Hub, of an image-to-text model with its processor."
        ) from error
    network = network.to(device).eval()
    if hasattr(processor, "tokenizer"):
        processor.tokenizer.padding_side = "left"  # what is generated follows what was asked

    def inputs_of(images: list[Image.Image]) -> Any:
        if getattr(processor, "chat_template", None) is None:
            return processor(images=images, return_tensors="pt")
        talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        prompt = processor.apply_chat_template(talk, add_generation_prompt=True)
        asked = {"images": [[image] for image in images], "text": [prompt] * len(images)}
        return processor(**asked, padding=True, return_tensors="pt")

    def caption(samples: list[dict[str, Any]]) -> list[str]:
        inputs = inputs_of([one["image"] for one in samples]).to(device, network.dtype)
        with torch.inference_mode():
            found = network.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        if "input_ids" in inputs:  # a conversation: what comes back begins with what was asked
            found = found[:, inputs["input_ids"].shape[1] :]
        return processor.batch_decode(found, skip_special_tokens=True)

    return caption
