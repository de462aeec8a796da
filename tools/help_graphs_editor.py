"""The small graphs that the help pages of the saliency editor and its ControlNet show; see `help_graphs`."""

from __future__ import annotations

import json

from .help_graphs import Graph, loader, negative, node

HERE = {"x": 0.72, "y": 0.4, "sx": 0.16, "sy": 0.12, "angle": -20, "amplitude": 0.8, "mode": "attract"}
THERE = {"x": 0.25, "y": 0.65, "sx": 0.12, "sy": 0.12, "angle": 0, "amplitude": 0.8, "mode": "attract"}
SPARED = {"x": 0.6, "y": 0.5, "sx": 0.06, "sy": 0.06, "angle": 0, "amplitude": 0.9, "mode": "suppress"}
BLOBS = json.dumps({"version": 1, "blobs": [HERE, THERE, SPARED]}, separators=(",", ":"))

GRAPHS: dict[str, Graph] = {
    "LimelightSaliencyEditor": {
        "here": node("LimelightSaliencyEditor", (0, 0), (520, 0), blobs=BLOBS, width=512, height=512),
        "shown": node("MaskPreview", (550, 0), (240, 300), mask=("here", 0)),
    },
    "LimelightSaliencyApply": {
        "load": loader(None),
        "text": node("CLIPTextEncode", (0, 0), title="Prompt", clip=("load", 1), text="a sailboat on the sea"),
        "none": negative((0, 45)),
        "net": node("ControlNetLoader", (0, 90), title="Load ControlNet Model"),
        "wish": node("LimelightSaliencyEditor", (0, 135), blobs=BLOBS, width=512, height=512),
        "size": node("EmptyLatentImage", None, width=("wish", 3), height=("wish", 4), batch_size=1),
        "here": node(
            "LimelightSaliencyApply",
            (210, 0),
            (290, 0),
            positive=("text", 0),
            negative=("none", 0),
            control_net=("net", 0),
            saliency=("wish", 0),
        ),
        "sample": node(
            "KSampler",
            (540, 0),
            (260, 0),
            model=("load", 0),
            positive=("here", 0),
            negative=("here", 1),
            latent_image=("size", 0),
            steps=50,
            cfg=9.0,
            sampler_name="ddim",
            scheduler="ddim_uniform",
        ),
    },
}
