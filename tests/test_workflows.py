"""Every example workflow runs in the real host, with shapeworld in place of the user's checkpoint."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from limelight.bench.workflow import load_workflow, of_type, on_shapeworld, to_prompt
from limelight.tools.in_process import ROOT

STEPS = 4  # enough for every node to do its work; what it looks like is the benches' business


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_workflow_runs(server, path):
    prompt = to_prompt(on_shapeworld(load_workflow(path)), server.client.object_info())
    for sampler in of_type(prompt, "KSampler"):
        sampler["inputs"]["steps"] = STEPS
    entry = server.client.run_workflow(prompt)
    saved = {key: entry["outputs"][key]["images"] for key, node in prompt.items() if node["class_type"] == "SaveImage"}
    assert saved
    for images in saved.values():
        for item in images:
            picture = Image.open(io.BytesIO(server.client.file(item)))
            assert picture.size == (128, 128) and np.asarray(picture).std() > 0
            # The picture's metadata reopens the graph, whatever the nodes put on their sockets.
            assert json.loads(picture.text["prompt"]) == prompt
    assert server.complaints() == []
