"""What the example workflows say of their models, and where they put their nodes; no host needed."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pytest

from limelight.bench.workflow import LOADERS, TRANSFORMER_LOADERS, load_workflow
from limelight.tools.in_process import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
CONVERTED = {"gazefusion-sd21.safetensors"}  # made by limelight.models.convert of a file that holds more
# The folder of each loader's files; the others' are ControlNets.
FOLDERS = {"CheckpointLoaderSimple": "checkpoints", "UNETLoader": "diffusion_models", "CLIPLoader": "text_encoders"}
FOLDERS |= {"VAELoader": "vae", "LimelightGLIGENLoader": "gligen"}
LOADS = {"CheckpointLoaderSimple", *LOADERS, *TRANSFORMER_LOADERS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_model_says_where_it_is_to_be_had(path):
    """In the form by which the front end offers a download: the name is the widget's value."""
    for node in load_workflow(path)["nodes"]:
        models = node["properties"].get("models", [])
        if node["type"] not in LOADS:
            assert models == []
            continue
        wanted = node["widgets_values"][0]
        assert [model["name"] for model in models] == [wanted] * (wanted not in CONVERTED)
        for model in models:
            assert model["directory"] == FOLDERS.get(node["type"], "controlnet")
            url = urlsplit(model["url"])
            assert (url.scheme, url.netloc, url.query) == ("https", "huggingface.co", "")
            assert "/resolve/main/" in url.path
            assert PurePosixPath(url.path).name == PurePosixPath(wanted).name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_groups_hold_their_nodes_and_stand_apart(path):
    workflow = load_workflow(path)
    groups = [Box(*group["bounding"]) for group in workflow["groups"]]
    for number, group in enumerate(groups):
        assert not any(group.meets(other) for other in groups[number + 1 :])
        for node in workflow["nodes"]:
            box = Box(*node["pos"], *node["size"])
            assert group.holds(box) or not group.meets(box), node["type"]


class Box:
    """left, top, width, height"""

    def __init__(self, left: float, top: float, width: float, height: float):
        self.left, self.top, self.right, self.bottom = left, top, left + width, top + height

    def meets(self, other: Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def holds(self, other: Box) -> bool:
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom
