"""Making the images to evaluate, one an item, so that a run which is stopped goes on where it was."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..guidance.regions.document import Document
from ..tools.client import WorkflowError, WorkflowRefused
from ..tools.console import StepFailed
from .evaluate_highlight_data import Item
from .evaluate_highlight_graph import Graph, of_item

RECORDS, SETTINGS, IMAGES = "items.jsonl", "settings.json", "images"
GIVE_UP = 5  # failures in a row, before the first success: then the set-up is wrong, not the items


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Writes the settings of the images in ``out``, or raises StepFailed if images of other settings are there."""
    path = out / SETTINGS
    settings = json.loads(json.dumps(settings))
    there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else settings
    other = sorted(key for key in settings.keys() | there.keys() if settings.get(key) != there.get(key))
    if other and any("image" in record for record in read_records(out).values()):
        raise StepFailed(
            f"{out} holds images of other settings ({', '.join(other)}). Give the same ones to go on with it, or "
            "another folder with --out."
        )
    if other:
        (out / RECORDS).unlink(missing_ok=True)  # failures of the other settings
    out.mkdir(parents=True, exist_ok=True)
    _replace(path, (json.dumps(settings, indent=1) + "\n").encode())


def read_records(out: Path, retry_failed: bool = False) -> dict[str, dict[str, Any]]:
    """What was made: by item name {"name", "prompt", "seed", and "image" (in ``out``) or "error"}.

    A line that was cut off, an image that is gone, and (retry_failed) a failure are as if they had not been.
    """
    path, records = out / RECORDS, {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records[record["name"]] = record
    return {
        name: record
        for name, record in records.items()
        if ("error" in record and not retry_failed) or ("image" in record and (out / record["image"]).is_file())
    }


def seed_of(item: Item, seed: int) -> int:
    """The noise seed of an item: the same whatever else is evaluated with it."""
    return (zlib.crc32(item.name.encode()) + seed) % 2**32


def make_images(items: Sequence[Item], host: Any, graph: Graph, out: Path, seed: int, unguided: bool = False) -> None:
    """One image an item, written to ``out``/images, with a line in ``out``/items.jsonl as soon as it is there.

    host: a `tools.client.HostClient` or `tools.in_process_host.InProcessHost`. unguided: with an empty document.
    A failed item is written down as such. Raises StepFailed if the host refuses the workflow, is gone, or fails at each
    of the first items.
    """
    (out / IMAGES).mkdir(exist_ok=True)
    fresh = failed = 0
    for item in tqdm(items, desc="images", unit="image", smoothing=0.05):
        noise = seed_of(item, seed)
        record = {"name": item.name, "prompt": item.prompt, "seed": noise}
        document = Document() if unguided else item.document
        try:
            images = host.images(host.run_workflow(of_item(graph, document, item.prompt, noise, item.letterbox.target)))
            if len(images) != 1:
                raise WorkflowError(f"found {len(images)} images; expected one")
        except WorkflowRefused as error:
            raise StepFailed(f"{item.name}: {error}") from None
        except WorkflowError as error:
            failed += 1
            record["error"] = str(error)
            tqdm.write(f"{item.name} failed: {str(error).splitlines()[0]}")
        except OSError as error:  # urllib's and the sockets' errors
            raise StepFailed(f"the host is gone ({error}). Start it, and the same command goes on from here.") from None
        else:
            fresh += 1
            record["image"] = f"{IMAGES}/{item.name}.png"
            _replace(out / record["image"], images[0])
        _append(out / RECORDS, record)
        if failed == GIVE_UP and not fresh:
            raise StepFailed(
                f"the first {failed} items all failed. The last one:\n{record['error']}\nThen run with --retry-failed."
            )


def _append(path: Path, record: dict[str, Any]) -> None:
    text = json.dumps(record) + "\n"
    with path.open("a+b") as file:
        if file.tell() and file.seek(-1, os.SEEK_END) is not None and file.read(1) != b"\n":
            text = "\n" + text  # the line before was cut off
        file.write(text.encode())


def _replace(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
