"""The small graphs that the help pages show: API prompts that also say where a node stands. Those of highlights.

{node id: {"class_type", "inputs", "_meta": {"title"}, "at": (x, y), "size": (width, least height)}}

A node without a size is folded, one without a place is left of the picture.
"""

from __future__ import annotations

import json
from typing import Any

from ..bench.demo import EXAMPLES

Graph = dict[str, dict[str, Any]]

SCENE = EXAMPLES[0]
DOCUMENT = json.dumps(SCENE.document)
ELLIPSE, BAND, SCRIBBLES = "limelight_ellipse.png", "limelight_band.png", "limelight_scribbles.png"
PICTURE = "limelight_picture.png"
"""Pictures in the host's input folder, drawn by `help_pictures`."""


Place = tuple[int, int] | None
Output = tuple[str, int]  # node id, number


def node(kind: str, at: Place, size: Place = None, title: str = "", **inputs: Any) -> dict:
    """One node of a graph; `inputs`: values, or outputs of other nodes."""
    made = {"class_type": kind, "at": at, "size": size, "_meta": {"title": title} if title else {}}
    return made | {"inputs": {key: list(value) if isinstance(value, tuple) else value for key, value in inputs.items()}}


def loader(at: Place) -> dict:
    """The checkpoint; its file is shapeworld's."""
    return node("ShapeworldLoader", at, title="Load Checkpoint")


def document(at: Place, size: Place = None) -> dict:
    return node("LimelightHighlightFromJSON", at, size, text=DOCUMENT)


def prompt(at: Place, size: Place = None) -> dict:
    return node("LimelightHighlightPrompt", at, size, clip=("load", 1), text=SCENE.caption, highlights=("doc", 0))


def guidance(at: Place) -> dict:
    return node("LimelightHighlightGuidance", at, model=("load", 0))


def negative(at: Place) -> dict:
    return node("CLIPTextEncode", at, title="Negative prompt", clip=("load", 1), text="")


def scene(load: Place = None, doc: Place = None, text: Place = None) -> Graph:
    """What a run needs before the model is steered."""
    size = node("EmptyLatentImage", None, width=128, height=128, batch_size=1)
    return {"load": loader(load), "doc": document(doc), "prompt": prompt(text), "none": negative(None), "size": size}


def sampled(model: Output, sampler: Place, decoder: Place, name: str = "") -> Graph:
    """The run: the image is (f"image{name}", 0)."""
    settings = {"seed": SCENE.seed, "steps": 25, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}
    settings |= {"denoise": 1.0, "positive": ("prompt", 0), "negative": ("none", 0), "latent_image": ("size", 0)}
    sample = f"sample{name}"
    decode = node("VAEDecode", decoder, samples=(sample, 0), vae=("load", 2))
    return {sample: node("KSampler", sampler, model=model, **settings), f"image{name}": decode}


def drawn(at: Place, highlights: Output, image: Output | None = None, title: str = "", height: int = 330) -> dict:
    """A Highlight Preview large enough to see something."""
    inputs = {"image": image} if image else {}
    return node("LimelightHighlightPreview", at, (height - 100, height), title, highlights=highlights, **inputs)


def steered(kind: str, **inputs: Any) -> Graph:
    """A node that steers the model, with the images with it and without."""
    return {
        **scene((0, 0), text=(0, 45)),
        "here": node(kind, (175, 0), (280, 0), model=("load", 0), **inputs),
        **sampled(("here", 0), (480, 0), (590, 0)),
        **sampled(("load", 0), (480, 45), (590, 45), "0"),
        "with": drawn((715, 0), ("doc", 0), ("image", 0), "with", 290),
        "without": drawn((935, 0), ("doc", 0), ("image0", 0), "without", 290),
    }


def mask(at: Place, size: Place = None, file: str = ELLIPSE) -> dict:
    return node("LoadImageMask", at, size, image=file, channel="red")


BOX = {"phrase": "red circle", "x": 0.1, "y": 0.1, "width": 0.35, "height": 0.35, "strength": 1.0}
BAR = {"phrase": "blue bar", "x": 0.55, "y": 0.5, "width": 0.4, "height": 0.35, "strength": 1.0}
COLORS = "#e6194b = red circle\n#4363d8 = blue bar"

LINES = DOCUMENT.replace('{"phrase"', '\n{"phrase"').replace('"instances"', '\n "instances"')

GRAPHS: dict[str, Graph] = {
    "LimelightHighlightCanvas": {
        "doc": node("LimelightHighlightCanvas", (0, 0), (560, 0), highlights=DOCUMENT, width=512, height=512),
        "load": loader(None),
        "prompt": prompt((590, 0), (230, 0)),
    },
    "LimelightHighlightFromMask": {
        "mask": mask((0, 0), (210, 330)),
        "here": node("LimelightHighlightFromMask", (240, 0), (340, 0), mask=("mask", 0), phrase="red circle"),
        "shown": drawn((610, 0), ("here", 0)),
    },
    "LimelightHighlightFromBox": {
        "here": node("LimelightHighlightFromBox", (0, 0), (250, 0), **BOX),
        "next": node("LimelightHighlightFromBox", (280, 0), (250, 0), highlights=("here", 0), **BAR),
        "shown": drawn((560, 0), ("next", 0)),
    },
    "LimelightHighlightFromJSON": {
        "here": node("LimelightHighlightFromJSON", (0, 0), (460, 330), text=LINES),
        "shown": drawn((490, 0), ("here", 0)),
    },
    "LimelightHighlightFromScribbles": {
        "drawing": node("LoadImage", (0, 0), (210, 330), image=SCRIBBLES),
        "here": node("LimelightHighlightFromScribbles", (240, 0), (330, 0), image=("drawing", 0), colors=COLORS),
        "shown": drawn((600, 0), ("here", 0)),
    },
    "LimelightHighlightPreview": {
        **scene(doc=(0, 0)),
        "steer": guidance(None),
        **sampled(("steer", 0), None, (0, 45)),
        "here": drawn((200, 0), ("doc", 0), ("image", 0)),
        "plain": drawn((460, 0), ("doc", 0), title="without an image"),
    },
    "LimelightHighlightPrompt": {
        "load": loader((0, 0)),
        "doc": document((0, 45)),
        "prompt": prompt((200, 0), (360, 0)),
        "steer": guidance((200, -60)),
        "sample": node("KSampler", (590, 0), (240, 0), model=("steer", 0), positive=("prompt", 0)),
    },
    "LimelightHighlightBind": {
        "load": loader((0, 0)),
        "text": node("CLIPTextEncode", (180, 0), (270, 0), clip=("load", 1), text=SCENE.caption),
        "doc": document((180, 190)),
        "here": node(
            "LimelightHighlightBind",
            (480, 0),
            (300, 0),
            text=SCENE.caption,
            conditioning=("text", 0),
            clip=("load", 1),
            highlights=("doc", 0),
        ),
        "sample": node("KSampler", (810, 0), positive=("here", 0)),
    },
    "LimelightHighlightGuidance": steered("LimelightHighlightGuidance"),
    "LimelightHighlightBias": steered("LimelightHighlightBias"),
    "LimelightHighlightPublished": steered("LimelightHighlightPublished", method="attention-refocusing"),
    "LimelightGLIGENLoader": {
        "here": node(
            "LimelightGLIGENLoader", (0, 0), (380, 0), gligen_name="gligen_sd14_textbox_pruned_fp16.safetensors"
        ),
        "apply": node("LimelightHighlightGLIGEN", (430, 0), (300, 0), gligen_textbox_model=("here", 0)),
    },
    "LimelightHighlightGLIGEN": {
        "load": loader((0, -60)),
        "doc": document(None),
        "prompt": prompt((0, 0)),
        "none": negative((0, 45)),
        "gligen": node("LimelightGLIGENLoader", (0, 90)),
        "here": node(
            "LimelightHighlightGLIGEN",
            (230, 0),
            (300, 0),
            positive=("prompt", 0),
            negative=("none", 0),
            clip=("load", 1),
            gligen_textbox_model=("gligen", 0),
        ),
        "steer": guidance((230, -60)),
        "sample": node("KSampler", (570, 0), (240, 0), model=("steer", 0), positive=("here", 0), negative=("here", 1)),
    },
    "LimelightAttentionRecord": {
        **scene(doc=(0, 60)),
        "steer": guidance((0, 0)),
        "here": node("LimelightAttentionRecord", (210, 0), (220, 0), model=("steer", 0)),
        **sampled(("here", 0), (460, 0), (580, 0)),
        "seen": node("LimelightAttentionPreview", (720, 0), record=("here", 1), image=("image", 0)),
        "rated": node(
            "LimelightHighlightScore", (720, 60), highlights=("doc", 0), record=("here", 1), image=("image", 0)
        ),
    },
    "LimelightAttentionPreview": {
        **scene(),
        "steer": guidance(None),
        "record": node("LimelightAttentionRecord", (0, 0), model=("steer", 0)),
        **sampled(("record", 0), None, (0, 45)),
        "here": node(
            "LimelightAttentionPreview", (180, 0), (230, 0), record=("record", 1), image=("image", 0), cell_size=128
        ),
        "sheet": node("PreviewImage", (440, 0), (400, 250), images=("here", 0)),
        "curve": node("PreviewImage", (440, 300), (400, 250), images=("here", 1)),
    },
    "LimelightHighlightScore": {
        **scene(doc=(0, 0)),
        "steer": guidance(None),
        "record": node("LimelightAttentionRecord", (0, 45), model=("steer", 0)),
        **sampled(("record", 0), None, (0, 90)),
        "here": node(
            "LimelightHighlightScore",
            (210, 0),
            (320, 460),
            highlights=("doc", 0),
            record=("record", 1),
            image=("image", 0),
        ),
    },
}
