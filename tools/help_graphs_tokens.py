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
        **scene(load=(0, 0), text=(0, 60)),
        "seen": node(
            "KSampler",
            (0, 120),
            model=("load", 0),
            latent_image=("size", 0),
            positive=("prompt", 0),
            negative=("none", 0),
        ),
        "here": node(
            "LimelightLayerReport",
            (230, 0),
            (320, 0),
            model=("load", 0),
            positive=("prompt", 0),
            latent=("seen", 0),
            seed=0,
            control_after_generate="fixed",
        ),
    },
}
