"""Every example workflow runs in the real host, with shapeworld in place of the user's checkpoint."""

from __future__ import annotations

import copy
import io
import json

import numpy as np
import pytest
from PIL import Image
from stand_ins import STAND_IN

from limelight.bench.workflow import BYPASSED, load_workflow, of_type, on_shapeworld, source_of, to_prompt
from limelight.tools.client import cached_nodes
from limelight.tools.in_process import ROOT
from limelight.tools.thumbnails import GAP, SIDE

STEPS = 4  # enough for every node to do its work; what it looks like is the benches' business
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
# these steer no sampling, they judge and choose: tests/test_saliency_workflows.py
JUDGES = {"saliency_closed_loop", "saliency_report", "saliency_retarget_display"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs(server, path):
    prompt = to_prompt(on_shapeworld(load_workflow(path), stand_in=STAND_IN), server.client.object_info())
    for sampler in of_type(prompt, "KSampler"):
        sampler["inputs"]["steps"] = STEPS
    pictures = run(server, prompt)
    assert pictures.keys() == {key for key, node in prompt.items() if node["class_type"] == "SaveImage"}
    steering = [key for key, node in prompt.items() if has_strength(node)]
    assert bool(steering) is (path.stem not in JUDGES)
    for steer in steering:
        without = copy.deepcopy(prompt)
        without[steer]["inputs"]["strength"] = 0.0
        plain = pictures | run(server, without)
        for key, picture in pictures.items():
            assert np.array_equal(plain[key], picture) is not passes(prompt, steer, key)
    assert server.complaints() == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_thumbnail_shows_two_pictures(path):
    thumbnail = path.with_suffix(".jpg")
    assert thumbnail.stat().st_size < 60_000
    with Image.open(thumbnail) as picture:
        assert picture.size == (2 * SIDE + GAP, SIDE)
        left, right = (np.asarray(picture.crop((x, 0, x + SIDE, SIDE)), float) for x in (0, SIDE + GAP))
    assert left.std() > 1 and right.std() > 1 and np.abs(left - right).max() > 16


def test_every_thumbnail_has_its_workflow():
    assert {path.stem for path in (ROOT / "workflows").glob("*.jpg")} == {path.stem for path in WORKFLOWS}


def run(server, prompt: dict) -> dict[str, np.ndarray]:
    """-> the pictures of each SaveImage node that ran, by its key: not those that are as in the last run."""
    entry = server.client.run_workflow(prompt)
    outputs, found = entry["outputs"], {}
    ran = outputs.keys() - cached_nodes(entry["status"]["messages"])
    for key in [key for key in outputs if key in ran and prompt[key]["class_type"] == "SaveImage"]:
        pictures = [Image.open(io.BytesIO(server.client.file(item))) for item in outputs[key]["images"]]
        for picture in pictures:
            assert picture.size == (128, 128) and np.asarray(picture).std() > 0
            # The picture's metadata reopens the graph, whatever the nodes put on their sockets.
            saved = json.loads(picture.text["prompt"])
            for node in saved.values():
                node.pop("is_changed", None)  # the host's note of the file that was loaded
            assert saved == prompt
        found[key] = np.stack([np.asarray(picture) for picture in pictures])
    return found


def has_strength(node: dict) -> bool:
    return node["class_type"].startswith("Limelight") and "strength" in node["inputs"]


def passes(prompt: dict, steer: str, key: str) -> bool:
    """Whether what node `key` shows has passed node `steer`."""
    sources = [value[0] for value in prompt[key]["inputs"].values() if isinstance(value, list)]
    return steer == key or any(passes(prompt, steer, source) for source in sources)


@pytest.mark.parametrize(
    ("name", "bypassed"),
    [
        ("highlight_basic", []),
        ("highlight_gligen", ["LimelightHighlightGLIGEN"]),
        ("highlight_regional_controlnet", ["ControlNetApplyAdvanced"]),
    ],
)
def test_models_that_shapeworld_cannot_use_are_bypassed(name, bypassed):
    nodes = on_shapeworld(load_workflow(ROOT / "workflows" / f"{name}.json"))["nodes"]
    assert [node["type"] for node in nodes if node["mode"] == BYPASSED] == bypassed


def test_bypassed_nodes_hand_on_what_they_get():
    workflow = on_shapeworld(load_workflow(ROOT / "workflows" / "highlight_gligen.json"))
    (bypassed,) = [node for node in workflow["nodes"] if node["mode"] == BYPASSED]
    links = {link[0]: link for link in workflow["links"]}
    behind = {slot: [links[i] for i in output["links"]] for slot, output in enumerate(bypassed["outputs"])}
    for slot, name in ((0, "positive"), (1, "negative")):
        own = links[next(item["link"] for item in bypassed["inputs"] if item["name"] == name)]
        assert [source_of(link, workflow) for link in behind[slot]] == [[str(own[1]), own[2]]]
