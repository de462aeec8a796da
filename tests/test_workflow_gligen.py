"""The GLIGEN example in the real host: shapeworld for the checkpoint, random weights that fit it for GLIGEN."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from limelight.bench.workflow import load_workflow, of_type, on_shapeworld, to_prompt
from limelight.tools.in_process import ROOT

STEPS = 4


@pytest.fixture
def gligen_file(server, host):
    """-> function (workflow): puts a GLIGEN of the name that the workflow wants where the host looks for it."""
    from gligen_weights import random_gligen
    from safetensors.torch import save_file

    from limelight.bench.sampling import load_world

    network = load_world().model.model.diffusion_model
    width = network.input_blocks[1][1].transformer_blocks[0].attn2.to_k.in_features
    written = []

    def write(workflow):
        (name,) = (n["widgets_values"][0] for n in workflow["nodes"] if n["type"] == "LimelightGLIGENLoader")
        path = server.base / "models" / "gligen" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(random_gligen(network, width), path)
        written.append(path)

    yield write
    for path in written:
        path.unlink()


def test_the_gligen_workflow_runs(server, gligen_file):
    workflow = load_workflow(ROOT / "workflows" / "highlight_gligen.json")
    gligen_file(workflow)
    prompt = to_prompt(on_shapeworld(workflow), server.client.object_info())
    for sampler in of_type(prompt, "KSampler"):
        sampler["inputs"]["steps"] = STEPS
    pictures = {}
    for strength in (1.0, 0.0):
        (node,) = of_type(prompt, "LimelightHighlightGLIGEN")
        node["inputs"]["strength"] = strength
        entry = server.client.run_workflow(prompt)
        (saved,) = (
            entry["outputs"][key]["images"] for key, node in prompt.items() if node["class_type"] == "SaveImage"
        )
        picture = Image.open(io.BytesIO(server.client.file(saved[0])))
        assert picture.size == (128, 128) and json.loads(picture.text["prompt"]) == prompt
        pictures[strength] = np.asarray(picture)
    assert np.abs(pictures[1.0].astype(int) - pictures[0.0]).mean() > 1  # out of 255: the boxes have been felt
    assert server.complaints() == []
