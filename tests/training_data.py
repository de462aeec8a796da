"""A small imagefolder of shapeworld's scenes, and shapeworld as a diffusers folder, for the tests of trainers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from limelight.guidance.saliency.maps import blur
from limelight.shapeworld.scenes import random_scene, render


def write_scenes(folder: Path, count: int = 8, seed: int = 0, side: int = 128) -> Path:
    """Pictures, their captions, blurred masks of the first object as maps ("saliency"), and the masks ("mask")."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(seed), []
    for i in range(count):
        scene = random_scene(rng)
        picture, masks = render(scene, side, rng)
        saliency = blur(masks[0], side / 16)
        pictures = {"": picture, ".saliency": saliency / saliency.max() * 255, ".mask": masks[0] * 255}
        names = {}
        for suffix, values in pictures.items():
            name = f"{i:03}{suffix}.png"
            Image.fromarray(np.round(values).astype(np.uint8)).save(folder / name)
            names[f"{suffix[1:]}_file_name" if suffix else "file_name"] = name
        lines.append(json.dumps({**names, "text": scene.caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def write_base(folder: Path, host: Path) -> Path:
    """Shapeworld as a diffusers folder. host: a ComfyUI folder."""
    from limelight.shapeworld.export import write_diffusers
    from limelight.shapeworld.nodes import WEIGHTS

    write_diffusers(WEIGHTS, folder, host)
    return folder
