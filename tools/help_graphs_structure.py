"""The small graphs that the help pages of local structure, line hints and scores show; see `help_graphs`."""

from __future__ import annotations

from .help_graphs import PICTURE, SCRIBBLES, Graph, Place, mask, node, sampled, scene


def structured(picture: Place, region: Place, here: Place, size: Place = None) -> Graph:
    """A model that gives the region the picture's structure, and its image."""
    return {
        **scene(None),
        "picture": node("LoadImage", picture, (210, 330) if picture else None, image=PICTURE),
        "encode": node("VAEEncode", None, pixels=("picture", 0), vae=("load", 2)),
        "mask": mask(region, (210, 330) if region else None),
        "steer": node(
            "LimelightLocalStructure", here, size, model=("load", 0), reference=("encode", 0), mask=("mask", 0)
        ),
        **sampled(("steer", 0), None, None),
    }


def hint(image: str, at: int, method: str) -> Graph:
    """One way to get lines out of an image, in a row of its own."""
    name = method.split()[0]
    return {
        f"picture {name}": node("LoadImage", (0, at), (190, 300), image=image),
        name: node("LimelightEdgeHint", (220, at), (260, 0), image=(f"picture {name}", 0), method=method),
        f"shown {name}": node("PreviewImage", (510, at), (210, 260), images=(name, 0)),
    }


GRAPHS: dict[str, Graph] = {
    "LimelightLocalStructure": {
        **structured((0, 0), (240, 0), (480, 0), (280, 0)),
        "shown": node("PreviewImage", (790, 0), (240, 330), images=("image", 0)),
    },
    "LimelightEdgeHint": {**hint(PICTURE, 0, "canny"), **hint(SCRIBBLES, 400, "line drawing")},
    "LimelightLocalControlScore": {
        **structured(None, None, None),
        **sampled(("load", 0), None, None, "0"),
        "with": node("PreviewImage", (0, 0), (190, 260), "with control", images=("image", 0)),
        "without": node("PreviewImage", (0, 300), (190, 260), "without", images=("image0", 0)),
        "here": node(
            "LimelightLocalControlScore",
            (220, 0),
            (320, 430),
            image=("image", 0),
            reference=("picture", 0),
            mask=("mask", 0),
            plain=("image0", 0),
        ),
    },
}
