"""The small graph that each help page shows: API prompts that also say where a node stands.

{node id: {"class_type", "inputs", "_meta": {"title"}, "at": (x, y), "size": (width, least height)}}; size None: folded
"""

from __future__ import annotations

import json
from typing import Any

from ..bench.demo import EXAMPLES

Graph = dict[str, dict[str, Any]]

SCENE = EXAMPLES[0]
DOCUMENT = json.dumps(SCENE.document)
ELLIPSE, SCRIBBLES = "limelight_ellipse.png", "limelight_scribbles.png"
"""Pictures in the host's input folder, drawn by `help_pictures`."""


def node(kind: str, at: tuple[int, int], size: tuple[int, int] | None = None, title: str = "", **inputs: Any) -> dict:
    """One node of a graph; `inputs`: values, or (node id, output number)."""
    made = {"class_type": kind, "at": at, "size": size, "_meta": {"title": title} if title else {}}
    return made | {"inputs": {key: list(value) if isinstance(value, tuple) else value for key, value in inputs.items()}}


def loader(at: tuple[int, int]) -> dict:
    """The checkpoint; its file is shapeworld's."""
    return node("ShapeworldLoader", at, title="Load Checkpoint")


def prompt(at: tuple[int, int], size: tuple[int, int] | None = None, highlights: tuple[str, int] = ("doc", 0)) -> dict:
    return node("LimelightHighlightPrompt", at, size, clip=("load", 1), text=SCENE.caption, highlights=highlights)


def sampled(model: tuple[str, int], at: tuple[int, int], name: str = "") -> Graph:
    """Sampler and decoder, folded, in a column of which `at` is the top: the image is (f"image{name}", 0)."""
    settings = {"seed": SCENE.seed, "steps": 25, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}
    x, y = at
    sampler = node("KSampler", (x, y), model=model, positive=("prompt", 0), negative=("none", 0), **settings)
    sampler["inputs"] |= {"latent_image": ["size", 0], "denoise": 1.0}
    return {
        f"sample{name}": sampler,
        f"image{name}": node("VAEDecode", (x, y + 45), samples=(f"sample{name}", 0), vae=("load", 2)),
    }


def around(x: int, y: int) -> Graph:
    """What every run needs beside the highlights, folded, in a column: checkpoint, negative prompt, size."""
    return {
        "load": loader((x, y)),
        "none": node("CLIPTextEncode", (x, y + 45), title="Negative prompt", clip=("load", 1), text=""),
        "size": node("EmptyLatentImage", (x, y + 90), title="Empty Latent", width=128, height=128, batch_size=1),
    }


def document(at: tuple[int, int]) -> dict:
    return node("LimelightHighlightFromJSON", at, text=DOCUMENT)


def drawn(
    at: tuple[int, int], highlights: tuple[str, int], image: tuple[str, int] | None = None, title: str = ""
) -> dict:
    """A Highlight Preview wide enough to see something."""
    inputs = {"image": image} if image else {}
    return node("LimelightHighlightPreview", at, (230, 330), title, highlights=highlights, **inputs)


def steered(kind: str, width: int, **inputs: Any) -> Graph:
    """A node that steers the model, with the images without and with it."""
    right = width + 190
    return {
        **around(0, 0),
        "doc": document((0, 150)),
        "prompt": prompt((0, 195)),
        "here": node(kind, (170, 0), (width, 0), model=("load", 0), **inputs),
        **sampled(("load", 0), (0, 260), "0"),
        **sampled(("here", 0), (right, 0), "1"),
        "without": drawn((right + 130, 0), ("doc", 0), ("image0", 0), "without"),
        "with": drawn((right + 380, 0), ("doc", 0), ("image1", 0), "with"),
    }


BOX = {"phrase": "red circle", "x": 0.1, "y": 0.1, "width": 0.35, "height": 0.35, "strength": 1.0}
BAR = {"phrase": "blue bar", "x": 0.55, "y": 0.5, "width": 0.4, "height": 0.35, "strength": 1.0}
COLORS = "#e6194b = red circle\n#4363d8 = blue bar"

GRAPHS: dict[str, Graph] = {
    "LimelightHighlightCanvas": {
        "doc": node("LimelightHighlightCanvas", (0, 0), (560, 0), highlights=DOCUMENT, width=512, height=512),
        "load": loader((590, 0)),
        "prompt": prompt((590, 60), (230, 0)),
    },
    "LimelightHighlightFromMask": {
        "mask": node("LoadImageMask", (0, 0), (210, 330), image=ELLIPSE, channel="red"),
        "here": node("LimelightHighlightFromMask", (240, 0), (270, 0), mask=("mask", 0), phrase="red circle"),
        "shown": drawn((540, 0), ("here", 0)),
    },
    "LimelightHighlightFromBox": {
        "here": node("LimelightHighlightFromBox", (0, 0), (250, 0), **BOX),
        "next": node("LimelightHighlightFromBox", (280, 0), (250, 0), highlights=("here", 0), **BAR),
        "shown": drawn((560, 0), ("next", 0)),
    },
    "LimelightHighlightFromJSON": {
        "here": node("LimelightHighlightFromJSON", (0, 0), (420, 330), text=json.dumps(SCENE.document, indent=1)),
        "shown": drawn((450, 0), ("here", 0)),
    },
    "LimelightHighlightFromScribbles": {
        "drawing": node("LoadImage", (0, 0), (210, 330), image=SCRIBBLES),
        "here": node("LimelightHighlightFromScribbles", (240, 0), (330, 0), image=("drawing", 0), colors=COLORS),
        "shown": drawn((600, 0), ("here", 0)),
    },
    "LimelightHighlightPreview": {
        **around(0, 0),
        "doc": document((0, 150)),
        "prompt": prompt((0, 195)),
        "steer": node("LimelightHighlightGuidance", (0, 240), model=("load", 0)),
        **sampled(("steer", 0), (200, 0)),
        "here": node("LimelightHighlightPreview", (340, 0), (270, 370), highlights=("doc", 0), image=("image", 0)),
        "plain": drawn((640, 0), ("doc", 0), title="without an image"),
    },
    "LimelightHighlightPrompt": {
        "load": loader((0, 0)),
        "doc": document((0, 60)),
        "prompt": prompt((220, 0), (360, 0)),
        "steer": node("LimelightHighlightGuidance", (220, -60), model=("load", 0)),
        "sample": node("KSampler", (640, 0), (240, 0), model=("steer", 0), positive=("prompt", 0)),
    },
    "LimelightHighlightBind": {
        "load": loader((0, 0)),
        "doc": document((0, 60)),
        "text": node("CLIPTextEncode", (220, 0), (280, 0), clip=("load", 1), text=SCENE.caption),
        "here": node(
            "LimelightHighlightBind",
            (530, 0),
            (300, 0),
            text=SCENE.caption,
            conditioning=("text", 0),
            highlights=("doc", 0),
        ),
        "sample": node("KSampler", (890, 0), model=("load", 0), positive=("here", 0)),
    },
    "LimelightHighlightGuidance": steered("LimelightHighlightGuidance", 290),
    "LimelightHighlightBias": steered("LimelightHighlightBias", 290),
    "LimelightHighlightPublished": steered("LimelightHighlightPublished", 290, method="layout-guidance"),
    "LimelightGLIGENLoader": {
        "here": node(
            "LimelightGLIGENLoader", (0, 0), (380, 0), gligen_name="gligen_sd14_textbox_pruned_fp16.safetensors"
        ),
        "apply": node("LimelightHighlightGLIGEN", (430, 0), (300, 0), gligen_textbox_model=("here", 0)),
    },
    "LimelightHighlightGLIGEN": {
        "load": loader((0, 0)),
        "doc": document((0, 45)),
        "prompt": prompt((0, 90)),
        "none": node("CLIPTextEncode", (0, 135), title="Negative prompt", clip=("load", 1), text=""),
        "gligen": node("LimelightGLIGENLoader", (0, 180)),
        "here": node("LimelightHighlightGLIGEN", (230, 0), (300, 0), positive=("prompt", 0), negative=("none", 0)),
        "steer": node("LimelightHighlightGuidance", (230, -60), model=("load", 0)),
        "sample": node("KSampler", (590, 0), (240, 0), model=("steer", 0), positive=("here", 0), negative=("here", 1)),
    },
    "LimelightAttentionRecord": {
        **around(0, 0),
        "doc": document((0, 150)),
        "prompt": prompt((0, 195)),
        "steer": node("LimelightHighlightGuidance", (0, 240), model=("load", 0)),
        "here": node("LimelightAttentionRecord", (230, 0), (240, 0), model=("steer", 0)),
        **sampled(("here", 0), (230, 150)),
        "seen": node("LimelightAttentionPreview", (520, 0), record=("here", 1), image=("image", 0)),
        "rated": node(
            "LimelightHighlightScore", (520, 60), highlights=("doc", 0), record=("here", 1), image=("image", 0)
        ),
    },
    "LimelightAttentionPreview": {
        **around(0, 0),
        "doc": document((0, 150)),
        "prompt": prompt((0, 195)),
        "steer": node("LimelightHighlightGuidance", (0, 240), model=("load", 0)),
        "record": node("LimelightAttentionRecord", (0, 285), model=("steer", 0)),
        **sampled(("record", 0), (0, 330)),
        "here": node(
            "LimelightAttentionPreview", (220, 0), (230, 0), record=("record", 1), image=("image", 0), cell_size=128
        ),
        "sheet": node("PreviewImage", (480, 0), (400, 250), images=("here", 0)),
        "curve": node("PreviewImage", (480, 300), (400, 250), images=("here", 1)),
    },
    "LimelightHighlightScore": {
        **around(0, 0),
        "doc": document((0, 150)),
        "prompt": prompt((0, 195)),
        "steer": node("LimelightHighlightGuidance", (0, 240), model=("load", 0)),
        "record": node("LimelightAttentionRecord", (0, 285), model=("steer", 0)),
        **sampled(("record", 0), (0, 330)),
        "here": node(
            "LimelightHighlightScore",
            (220, 0),
            (280, 140),
            highlights=("doc", 0),
            record=("record", 1),
            image=("image", 0),
        ),
        "picture": node("PreviewImage", (530, 0), (260, 330), images=("here", 2)),
    },
}
