"""The small graph that the help page of Token Preview shows; see `help_graphs`."""

from __future__ import annotations

from .help_graphs import SCENE, Graph, loader, node

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
}
