"""The small graphs that the help pages of Token Preview and Layer Report show; see `help_graphs`."""

from __future__ import annotations

from .help_graphs import SCENE, Graph, loader, node, scene

GRAPHS: dict[str, Graph] = {
    "LimelightTokenPreview": {
        "load": loader(None),
        "here": node(
            "LimelightTokenPreview",
            (0, 0),
            (320, 240),
            clip=("load", 1),
            text=SCENE.caption,
            phrase=SCENE.document["highlights"][0]["phrase"],
            occurrence=1,
        ),
    },
    "LimelightLayerReport": {
        **scene(),
        "here": node(
            "LimelightLayerReport", (0, 0), (460, 420), model=("load", 0), positive=("prompt", 0), latent=("size", 0)
        ),
    },
}
