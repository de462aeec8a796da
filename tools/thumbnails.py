"""Thumbnails of the example workflows, from their own pictures: ``python -m limelight.tools.thumbnails --host URL``.

Each workflow runs on shapeworld in the running host, with its highlights and with all strengths 0; the thumbnail shows
both, left without, right with. Nodes that need models which shapeworld has not are bypassed.
"""

from __future__ import annotations

import argparse
import copy
import io
from pathlib import Path

from PIL import Image

from ..bench.workflow import load_workflow, of_type, on_shapeworld, to_prompt
from .client import HostClient
from .in_process import ROOT

SIDE = 256
QUALITY = 85


def prompts(path: Path, object_info: dict) -> tuple[dict, dict]:
    """-> the workflow's API prompt, and the same with every strength of this pack at 0."""
    prompt = to_prompt(on_shapeworld(load_workflow(path)), object_info)
    without = copy.deepcopy(prompt)
    for node in without.values():
        if node["class_type"].startswith("Limelight") and "strength" in node["inputs"]:
            node["inputs"]["strength"] = 0.0
    return prompt, without


def pictures(client: HostClient, prompt: dict) -> list[Image.Image]:
    """What the workflow's Save Image nodes make."""
    for number, node in enumerate(of_type(prompt, "SaveImage")):
        # never the same: the host would skip what it has saved already
        node["inputs"]["filename_prefix"] = f"thumbnails/{number}-{id(prompt)}"
    outputs = client.run_workflow(prompt)["outputs"]
    keys = sorted((key for key in outputs if prompt[key]["class_type"] == "SaveImage"), key=int)
    return [Image.open(io.BytesIO(client.file(outputs[key]["images"][0]))).convert("RGB") for key in keys]


def thumbnail(without: Image.Image, highlighted: Image.Image) -> Image.Image:
    """Both beside each other, enlarged."""
    sheet = Image.new("RGB", (2 * SIDE + 4, SIDE), "white")
    for x, image in ((0, without), (SIDE + 4, highlighted)):
        sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, 0))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="URL of a running host that has the pack and shapeworld's loader")
    parser.add_argument("workflows", nargs="*", type=Path, help="default: all of workflows/")
    args = parser.parse_args()
    client = HostClient(args.host)
    for path in args.workflows or sorted((ROOT / "workflows").glob("highlight_*.json")):
        prompt, without = prompts(path, client.object_info())
        pairs = zip(pictures(client, without), pictures(client, prompt), strict=True)
        made = next(
            thumbnail(*pair) for pair in pairs if pair[0] != pair[1]
        )  # a graph may also save what it compares to
        made.save(path.with_suffix(".jpg"), quality=QUALITY)
        print(path.with_suffix(".jpg"))


if __name__ == "__main__":
    main()
