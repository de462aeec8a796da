"""The demo: example workflows of all four families in a running host, each picture without and with its control.

Started by ``python dev.py demo``: ``workflows/highlight_basic.json`` on four prompts, then those of `demo_controls`.
Prints which objects are on their strokes, what the other controls do, and where the pictures are.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..guidance.regions.document import parse
from ..guidance.regions.raster import coverage
from ..shapeworld.reader import Found, object_of, read
from ..tools.client import HostClient
from ..tools.in_process import ROOT
from . import demo_controls
from .prompts import distance_to, hit
from .sheets import outlined
from .table import show
from .workflow import load_workflow, of_type, on_shapeworld, to_prompt

WORKFLOW = ROOT / "workflows" / "highlight_basic.json"
SIDE = 128
ZOOM = 2  # of the pictures on the contact sheet
Line = list[tuple[float, float]]


@dataclass(frozen=True)
class Example:
    """A prompt and its strokes (fractions of the side) by phrase."""

    caption: str
    seed: int
    strokes: dict[str, Line]

    @property
    def document(self) -> dict:
        colours = {"red": "#ff5050", "green": "#40d060", "blue": "#6080ff", "yellow": "#ffe060"}
        return {
            "version": 1,
            "highlights": [
                {
                    "phrase": phrase,
                    "color": colours[phrase.split()[0]],
                    "instances": [{"shapes": [{"type": "stroke", "points": [list(p) for p in line], "width": 0.06}]}],
                }
                for phrase, line in self.strokes.items()
            ],
        }


EXAMPLES = (
    Example(
        "a red circle and a blue bar on a gray background",
        1,
        {"red circle": [(0.2, 0.28), (0.36, 0.22)], "blue bar": [(0.55, 0.84), (0.84, 0.62)]},
    ),
    Example(
        "a green square and a yellow circle on a white background",
        2,
        {"green square": [(0.64, 0.26), (0.82, 0.26)], "yellow circle": [(0.22, 0.64), (0.3, 0.8)]},
    ),
    Example(
        "a yellow bar and a red square on a black background",
        3,
        {"yellow bar": [(0.24, 0.2), (0.24, 0.56)], "red square": [(0.66, 0.7), (0.84, 0.7)]},
    ),
    Example(
        "a blue circle, a red bar and a green square on a gray background",
        4,
        {
            "blue circle": [(0.2, 0.24), (0.32, 0.3)],
            "red bar": [(0.6, 0.24), (0.88, 0.46)],
            "green square": [(0.36, 0.76), (0.5, 0.76)],
        },
    ),
)


def graph_of(workflow: dict[str, dict], example: Example) -> dict[str, dict]:
    """The workflow with this example's text, document and seed."""
    graph = copy.deepcopy(workflow)
    of_type(graph, "LimelightHighlightPrompt")[0]["inputs"]["text"] = example.caption
    of_type(graph, "LimelightHighlightFromJSON")[0]["inputs"]["text"] = json.dumps(example.document)
    for sampler in of_type(graph, "KSampler"):
        sampler["inputs"]["seed"] = example.seed
    return graph


def pictures(client: HostClient, graph: dict[str, dict], outputs: dict) -> tuple[Image.Image, Image.Image]:
    """-> the plain and the highlighted image, by the file names that the workflow gives them."""
    saved = {}
    for key, node in graph.items():
        if node["class_type"] == "SaveImage":
            data = client.file(outputs[key]["images"][0])
            saved[node["inputs"]["filename_prefix"]] = Image.open(io.BytesIO(data)).convert("RGB")
    return saved["limelight/plain"], saved["limelight/highlighted"]


def place_of(found: list[Found], phrase: str, stroke: np.ndarray) -> str:
    """ "hit", or how far the object is from its stroke in fractions of the side, or "absent"."""
    thing = object_of(found, phrase)
    if thing is None:
        return "absent"
    if hit(found, phrase, stroke):
        return "hit"
    return f"{distance_to(thing, stroke):.2f} away"


def enlarged(picture: Image.Image) -> Image.Image:
    return picture.resize((SIDE * ZOOM, SIDE * ZOOM), Image.Resampling.BICUBIC)


def with_strokes(picture: Image.Image, example: Example) -> Image.Image:
    """The picture enlarged, with the strokes drawn as thin lines in their colours, outlined in white."""
    side, large = SIDE * ZOOM, enlarged(picture)
    draw = ImageDraw.Draw(large)
    for highlight, line in zip(example.document["highlights"], example.strokes.values(), strict=True):
        points = [(x * side, y * side) for x, y in line]
        draw.line(points, "white", 7)
        draw.line(points, highlight["color"], 3)
        for x, y in points:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), highlight["color"], "white")
    return large


def contact_sheet(columns: list[tuple[str, str, Image.Image, Image.Image]], wide: int = 4) -> Image.Image:
    """(caption, what is added, picture without, picture with) -> one sheet, ``wide`` columns a band."""
    side, margin, label = SIDE * ZOOM, 8, 44
    font = ImageFont.load_default(13)
    tall = label + 2 * (side + margin + 18)
    bands = -(-len(columns) // wide)
    sheet = Image.new("RGB", (margin + wide * (side + margin), bands * tall), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, what, *pair) in enumerate(columns):
        x, top = margin + number % wide * (side + margin), number // wide * tall
        words, lines = caption.split(), [""]
        for word in words:
            fits = draw.textlength(f"{lines[-1]} {word}", font) <= side
            lines[-1:] = [f"{lines[-1]} {word}".strip()] if fits else [lines[-1], word]
        draw.text((x, top + 4), "\n".join(lines), "black", font)
        for row, (title, picture) in enumerate(zip((f"without {what}", f"with {what}"), pair, strict=True)):
            y = top + label + row * (side + margin + 18)
            draw.text((x, y), title, "#666666", font)
            sheet.paste(picture, (x, y + 18))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="URL of a running host that has the pack and shapeworld's loader")
    parser.add_argument("--out", type=Path, default=ROOT / ".base" / "output" / "demo", help="folder for the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    client = HostClient(args.host)
    info = client.object_info()
    workflow = to_prompt(on_shapeworld(load_workflow(WORKFLOW), SIDE), info)
    count = len(EXAMPLES) + len(demo_controls.FAMILIES)
    rows, columns, paths = [], [], []

    def keep(name: str, picture: Image.Image) -> None:
        paths.append(args.out / f"{name}.png")
        picture.save(paths[-1])

    for number, example in enumerate(EXAMPLES, start=1):
        print(f"{number}/{count}: {example.caption}", flush=True)
        graph = graph_of(workflow, example)
        plain, guided = pictures(client, graph, client.run_workflow(graph)["outputs"])
        columns.append((example.caption, "highlights", with_strokes(plain, example), with_strokes(guided, example)))
        keep(f"{number}-plain", plain)
        keep(f"{number}-highlighted", guided)
        before, after = read(np.array(plain)), read(np.array(guided))
        for highlight in parse(example.document).highlights:
            stroke = coverage(highlight.instances[0].shapes, SIDE, SIDE)
            where = [place_of(found, highlight.phrase, stroke) for found in (before, after)]
            rows.append({"prompt": number, "phrase": highlight.phrase, "without": where[0], "with": where[1]})
    demo_controls.prepare(client)
    for number, family in enumerate(demo_controls.FAMILIES, start=len(EXAMPLES) + 1):
        print(f"{number}/{count}: {family.title}: {family.caption}", flush=True)
        made, place, row = demo_controls.run(client, family, info)
        rows.append(row)
        marked = [enlarged(Image.fromarray(outlined(picture, place))) for picture in made]
        columns.append((family.caption, family.adds, *marked))
        for name, picture in zip(("plain", "controlled"), made, strict=True):
            keep(f"{number}-{name}", Image.fromarray(picture))
    keep("contact-sheet", contact_sheet(columns))
    show(rows)
    print("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
