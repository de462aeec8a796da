"""The small graphs that the help pages of local control show; see `help_graphs`."""

from __future__ import annotations

from .help_graphs import PICTURE, Graph, Place, loader, mask, negative, node

ADAPTER, DEPTH = "t2iadapter_canny_sd14v1.pth", "coadapter-depth-sd15v1.pth"


def prompts(text: Place, none: Place) -> Graph:
    """The two prompts, and a hint."""
    return {
        "load": loader(None),
        "text": node("CLIPTextEncode", text, title="Prompt", clip=("load", 1), text="a photo of a room"),
        "none": negative(none),
        "picture": node("LoadImage", None, image=PICTURE),
    }


def applied(name: str, at: Place, size: Place, before: str, adapter: str) -> dict:
    """Apply Masked Control behind another node, or behind the prompts."""
    given = {"positive": ("text", 0), "negative": ("none", 0)} if not before else {}
    given = given or {"positive": (before, 0), "negative": (before, 1)}
    hint = {"image": ("hint", 0), "mask": ("mask", 0)}
    return node("LimelightMaskedAdapterApply", at, size, name, control_net=(adapter, 0), **given, **hint)


def hinted(at: Place, region: Place, size: Place = None) -> Graph:
    return {
        "hint": node("Canny", at, image=("picture", 0), low_threshold=0.3, high_threshold=0.7),
        "mask": mask(region, size),
    }


def chain(last: str, **inputs) -> Graph:
    """Two controls, and the node that merges them."""
    return {
        **prompts((0, 0), (0, 45)),
        **hinted((0, 90), (0, 135)),
        "canny": node("LimelightAdapterLoader", (0, 180), adapter_name=ADAPTER),
        "depth": node("LimelightAdapterLoader", (0, 225), adapter_name=DEPTH),
        "first": applied("First region", (190, 0), None, "", "canny"),
        "second": applied("Second region", (190, 45), None, "first", "depth"),
        "here": node(last, (400, 0), (290, 0), positive=("second", 0), negative=("second", 1), **inputs),
    }


GRAPHS: dict[str, Graph] = {
    "LimelightAdapterLoader": {
        **prompts((0, 180), (0, 225)),
        **hinted((0, 270), None),
        "here": node("LimelightAdapterLoader", (0, 0), (320, 0), adapter_name=ADAPTER),
        "apply": applied("", (350, 0), (290, 0), "", "here"),
    },
    "LimelightControlRegion": {
        "net": node("ControlNetLoader", (0, 0), control_net_name="control_v11p_sd15_canny_fp16.safetensors"),
        "mask": mask((0, 60), (210, 330)),
        "here": node("LimelightControlRegion", (240, 0), (290, 0), control_net=("net", 0), mask=("mask", 0)),
        **prompts((240, -45), (400, -45)),
        "hint": node("Canny", None, image=("picture", 0), low_threshold=0.3, high_threshold=0.7),
        "apply": node(
            "ControlNetApplyAdvanced",
            (560, 0),
            (280, 0),
            positive=("text", 0),
            negative=("none", 0),
            control_net=("here", 0),
            image=("hint", 0),
        ),
    },
    "LimelightMaskedAdapterApply": {
        **prompts((0, 0), (0, 45)),
        "canny": node("LimelightAdapterLoader", (0, 90), adapter_name=ADAPTER),
        **hinted((0, 135), (0, 195), (210, 330)),
        "here": applied("", (240, 0), (300, 0), "", "canny"),
    },
    "LimelightRegions": chain("LimelightRegions", overlap="normalise"),
    "LimelightCoAdapter": chain("LimelightCoAdapter", fuser_name="coadapter-fuser-sd15v1.pth"),
}
