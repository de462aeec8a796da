"""Thumbnails of the example workflows, from their own pictures: ``python -m limelight.tools.thumbnails --host URL``.

Each workflow runs on shapeworld in the running host, as it is and with all strengths 0; the thumbnail shows the saved
picture without on the left, with on the right. A workflow that steers nothing to be seen shows what is drawn in it, or
its first picture, beside the last. Where all is up to models that shapeworld has not, whose nodes are bypassed, the
thumbnail shows what they would be given.
"""

from __future__ import annotations

import argparse
import copy
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ..bench.workflow import BYPASSED, load_workflow, on_shapeworld, to_prompt
from .client import HostClient
from .in_process import ROOT

SIDE = 256
GAP = 4
QUALITY = 85
APART = 24  # of 255: colours that are to be told apart
# what shows the drawings of nodes that are drawn in: a node, its input, the number of their output
DRAWN = {"LimelightHighlightCanvas": [("PreviewImage", "images", 2)]}
DRAWN["LimelightSaliencyEditor"] = [("MaskPreview", "mask", 0), ("PreviewImage", "images", 2)]


def at_zero(prompt: dict) -> dict:
    """-> the API prompt with every strength of this pack at 0."""
    without = copy.deepcopy(prompt)
    for node in without.values():
        if node["class_type"].startswith("Limelight") and "strength" in node["inputs"]:
            node["inputs"]["strength"] = 0.0
    return without


def lacking(workflow: dict) -> set[str]:
    """-> the nodes behind a bypassed one, but for loaders that nothing needs: what they show lacks its effect."""
    bypassed = [node for node in workflow["nodes"] if node["mode"] == BYPASSED]
    found = {node["id"] for node in bypassed if any(slot.get("link") is not None for slot in node.get("inputs", []))}
    while more := {link[3] for link in workflow["links"] if link[1] in found} - found:
        found |= more
    return {str(number) for number in found}


def drawings(prompt: dict) -> dict:
    """-> nodes that show what is drawn, to be added to the API prompt."""
    added: dict[str, dict] = {}
    for key in sorted(prompt, key=int):
        for kind, name, number in DRAWN.get(prompt[key]["class_type"], []):
            added[str(1000 + len(added))] = {"class_type": kind, "inputs": {name: [key, number]}}
    return added


def pictures(client: HostClient, prompt: dict) -> dict[str, Image.Image]:
    """-> the first picture of every node that shows some, in the nodes' order, what is saved behind the others."""
    saved = [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]
    for key in saved:
        # never the same: the host would skip what it has saved already
        prompt[key]["inputs"]["filename_prefix"] = f"thumbnails/{key}-{time.time_ns()}"
    outputs = client.run_workflow(prompt)["outputs"]
    keys = sorted((key for key in outputs if outputs[key].get("images")), key=lambda key: (key in saved, int(key)))
    files = {key: client.file(outputs[key]["images"][0]) for key in keys}
    return {key: Image.open(io.BytesIO(file)).convert("RGB") for key, file in files.items()}


def pair(client: HostClient, workflow: dict, object_info: dict) -> tuple[Image.Image, Image.Image]:
    """What a workflow on shapeworld has on the left and on the right of its thumbnail."""
    client.request("/free", {"free_memory": True})  # else the host leaves out what another workflow has shown
    time.sleep(1)
    prompt = to_prompt(workflow, object_info)
    drawn = drawings(prompt)
    shown = pictures(client, prompt | drawn)
    without = at_zero(prompt)
    for key, left in pictures(client, without).items() if without != prompt else ():
        if prompt[key]["class_type"] == "SaveImage" and unlike(left, shown[key]):
            return left, shown[key]  # others are what it compares to
    left_out = lacking(workflow)
    views = [shown[key] for key in drawn]
    own = [image for key, image in shown.items() if key not in drawn.keys() | left_out]
    strip = own + views if left_out else views + own
    return strip[0], next(image for image in reversed(strip) if unlike(strip[0], image))


def unlike(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures are to be told apart at a glance: by size, or by the colours of two pixels in a hundred."""
    if one.size != other.size:
        return True
    apart = np.abs(np.asarray(one, int) - np.asarray(other, int)).max(-1) > APART
    return bool(apart.mean() > 0.02)


def thumbnail(left: Image.Image, right: Image.Image) -> Image.Image:
    """Both beside each other, enlarged; what is not square has white beside it."""
    sheet = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
    for start, image in ((0, left), (SIDE + GAP, right)):
        scale = SIDE / max(image.size)
        width, height = round(image.width * scale), round(image.height * scale)
        place = (start + (SIDE - width) // 2, (SIDE - height) // 2)
        sheet.paste(image.resize((width, height), Image.Resampling.BICUBIC), place)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="URL of a running host that has the pack and shapeworld's loader")
    parser.add_argument("workflows", nargs="*", type=Path, help="default: all of workflows/")
    args = parser.parse_args()
    client = HostClient(args.host)
    object_info = client.object_info()
    for path in args.workflows or sorted((ROOT / "workflows").glob("*.json")):
        made = thumbnail(*pair(client, on_shapeworld(load_workflow(path)), object_info))
        made.save(path.with_suffix(".jpg"), quality=QUALITY)
        print(path.with_suffix(".jpg"), flush=True)


if __name__ == "__main__":
    main()
