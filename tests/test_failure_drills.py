"""What goes wrong inside a guided run leaves nothing behind: the next run is bit for bit that of a fresh host.

The faults are real ones (the host's interrupt, an error of torch, its memory management, SIGKILL), set off inside the
guided step. Small graphs on shapeworld, run by the host's own executor; latents are compared, not pictures.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from limelight.bench.workflow import widgets
from limelight.tools.client import WorkflowError, cached_nodes
from limelight.tools.in_process import ROOT, host_path
from limelight.tools.in_process_host import InProcessHost
from limelight.tools.server import HostServer

STEPS = 3
SHAPEWORLD = ROOT / "shapeworld" / "nodes"
BOX = {"phrase": "red circle", "instances": [{"shapes": [{"type": "box", "box": [0.1, 0.1, 0.5, 0.5]}]}]}
DOCUMENT = json.dumps({"version": 1, "highlights": [BOX]})
ALWAYS = {"start_percent": 0.0, "end_percent": 1.0}
MASK = ["mask", 0]

# Each guided node with what it is given besides the model; the rest takes its defaults.
GUIDED = {
    "LimelightHighlightGuidance": ALWAYS,
    "LimelightHighlightBias": ALWAYS,
    "LimelightHighlightPublished": {"method": "attention-refocusing-car"},
    "LimelightSaliencyGuidance": {**ALWAYS, "predictor": ["predictor", 0], "target": MASK},
    "LimelightExpansionGuard": {**ALWAYS, "subject_mask": MASK},
    "LimelightLocalStructure": {**ALWAYS, "reference": ["reference", 0], "mask": MASK},
}
NUMBERS = itertools.count()
BIASES = {"LimelightHighlightBias", "LimelightExpansionGuard"}


def graph(guided: str | None = None, steps: int = STEPS) -> dict[str, dict]:
    """A run on shapeworld, plain or with one of the guided nodes."""
    nodes = {
        "world": ("ShapeworldLoader", {}),
        "document": ("LimelightHighlightFromJSON", {"text": DOCUMENT}),
        "positive": (
            "LimelightHighlightPrompt",
            {"clip": ["world", 1], "text": "a red circle on a gray background", "highlights": ["document", 0]},
        ),
        "negative": ("CLIPTextEncode", {"clip": ["world", 1], "text": ""}),
        "empty": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        "sampler": (
            "KSampler",
            {"model": ["world", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
            | {"latent_image": ["empty", 0], "seed": 7, "steps": steps, "cfg": 4.0, "denoise": 1.0}
            | {"sampler_name": "euler", "scheduler": "normal"},
        ),
        "save": ("SaveLatent", {"samples": ["sampler", 0], "filename_prefix": "drill"}),
    }
    if guided:
        nodes["guided"] = (guided, {"model": ["world", 0], **GUIDED[guided]})
        nodes["sampler"][1]["model"] = ["guided", 0]
        nodes["black"] = ("SolidMask", {"value": 0.0, "width": 128, "height": 128})
        nodes["white"] = ("SolidMask", {"value": 1.0, "width": 48, "height": 48})
        place = {"x": 24, "y": 40, "operation": "add"}
        nodes["mask"] = ("MaskComposite", {"destination": ["black", 0], "source": ["white", 0], **place})
        nodes["predictor"] = ("LimelightSaliencyPredictorLoader", {"model": "classic (needs no file)"})
        nodes["picture"] = ("MaskToImage", {"mask": ["mask", 0]})
        nodes["reference"] = ("VAEEncode", {"pixels": ["picture", 0], "vae": ["world", 2]})
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def filled(prompt: dict[str, dict], info: dict) -> dict[str, dict]:
    """The graph with the defaults of all widgets that it leaves open. The sampler gets an input that it does not know,
    another one each time: so the host never takes its latents from an earlier run."""
    for node in prompt.values():
        node["inputs"] = {name: value for name, value in widgets(info[node["class_type"]]) if name} | node["inputs"]
    prompt["sampler"]["inputs"]["drill"] = next(NUMBERS)
    return prompt


def written(outputs: dict, messages: list) -> dict:
    """The file that SaveLatent says it has written. messages: what the host said of the run."""
    assert "sampler" not in cached_nodes(messages)
    return outputs["save"]["latents"][0]


# In this process ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_process(host) -> Iterator[Callable[[dict], torch.Tensor]]:
    """-> function (graph) -> its latents, by the host's executor."""
    import folder_paths

    running = InProcessHost(host.base, (ROOT, SHAPEWORLD))
    info = running.object_info()

    def run(prompt: dict) -> torch.Tensor:
        outputs = running.run_workflow(filled(prompt, info))["outputs"]
        item = written(outputs, running.messages())
        path = Path(folder_paths.get_output_directory()) / item["subfolder"] / item["filename"]
        return load_file(path)["latent_tensor"]

    yield run
    running.close()


@pytest.fixture(scope="module")
def fresh(in_process) -> dict[str | None, torch.Tensor]:
    """What each graph gives before anything has gone wrong; None: the plain one."""
    found = {kind: in_process(graph(kind)) for kind in (None, *GUIDED)}
    assert all(latents.isfinite().all() for latents in found.values())
    assert all(not torch.equal(latents, found[None]) for kind, latents in found.items() if kind)
    return found


@contextmanager
def fault(monkeypatch, kind: str, act: Callable[[], None]) -> Iterator[list]:
    """Once, inside the guided part of the second step: `act`. -> a list that is filled when it has happened."""
    import comfy.utils

    armed, done = [], []
    owner, name = (torch.nn.functional, "scaled_dot_product_attention") if kind in BIASES else (torch.autograd, "grad")
    original = getattr(owner, name)

    def acting(*args, **kwargs):
        inside = kind not in BIASES or kwargs.get("attn_mask") is not None
        if armed and inside and not done:
            done.append(True)
            act()
        return original(*args, **kwargs)

    comfy.utils.set_progress_bar_global_hook(lambda value, *_, **__: armed.append(value))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, acting)
            yield done
    finally:
        comfy.utils.set_progress_bar_global_hook(None)


@pytest.mark.parametrize("kind", GUIDED)
def test_an_interrupt_inside_the_guided_step(in_process, fresh, monkeypatch, kind):
    import nodes

    with (
        fault(monkeypatch, kind, nodes.interrupt_processing) as done,
        pytest.raises(WorkflowError, match="interrupted"),
    ):
        in_process(graph(kind))
    assert done
    assert torch.equal(in_process(graph()), fresh[None])
    assert torch.equal(in_process(graph(kind)), fresh[kind])


@pytest.mark.parametrize("kind", GUIDED)
def test_out_of_memory_inside_the_guided_step(in_process, fresh, monkeypatch, kind):
    def act():
        raise torch.OutOfMemoryError("no memory left, says the test")

    with fault(monkeypatch, kind, act) as done:
        with pytest.raises(WorkflowError, match="says the test"):
            in_process(graph(kind))
    assert done
    assert torch.equal(in_process(graph()), fresh[None])
    assert torch.equal(in_process(graph(kind)), fresh[kind])


@pytest.mark.parametrize("kind", GUIDED)
def test_the_model_is_unloaded_between_steps(in_process, fresh, kind):
    """As when another model needs the memory. The run goes on, to the same end."""
    import comfy.model_management
    import comfy.utils

    unloaded = []

    def between(value, *_, **__):
        if value == 1:
            unloaded.append(len(comfy.model_management.loaded_models()))
            comfy.model_management.unload_all_models()

    comfy.utils.set_progress_bar_global_hook(between)
    try:
        assert torch.equal(in_process(graph(kind)), fresh[kind])
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert unloaded and unloaded[0] > 0
    assert torch.equal(in_process(graph()), fresh[None])


# In a host of its own -------------------------------------------------------------------------------------------------


def over_http(server: HostServer, prompt: dict) -> torch.Tensor:
    return fetched(server, server.client.run_workflow(filled(prompt, server.client.object_info())))


def queue(server: HostServer, prompt: dict) -> str:
    return server.client.queue(filled(prompt, server.client.object_info()))


def ended(server: HostServer, name: str) -> dict:
    """The history of a queued prompt, once it has one."""
    wait(lambda: name in server.client.json(f"/history/{name}"))
    return server.client.json(f"/history/{name}")[name]


def fetched(server: HostServer, entry: dict) -> torch.Tensor:
    item = written(entry["outputs"], entry["status"]["messages"])
    return load(server.client.file(item))["latent_tensor"]


def wait(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def begun(server: HostServer, guided: str) -> str:
    """Queue a run that takes too long, and wait until it samples; -> its id."""
    before = len(server.log())
    name = queue(server, graph(guided, steps=1000))
    # the bar is drawn ten times a second at most, so that any step may be the first to be seen
    wait(lambda: re.search(r" [1-9]\d*/1000 ", server.log()[before:]))
    return name


def test_queue_interrupt_and_kill(host, tmp_path):
    """Two prompts queued with different guidance, an interrupt, the memory freed, the host killed and started again."""
    packs = {"limelight": ROOT, "limelight_shapeworld": SHAPEWORLD}
    first, second = "LimelightHighlightGuidance", "LimelightExpansionGuard"
    with HostServer(Path(sys.executable), host_path(), base=tmp_path, packs=packs) as server:
        plain = over_http(server, graph())  # nothing has run in this host before
        queued = [queue(server, graph(kind)) for kind in (first, second)]
        guided = [fetched(server, ended(server, name)) for name in queued]
        assert not torch.equal(guided[0], guided[1])
        assert torch.equal(over_http(server, graph()), plain)

        name = begun(server, first)
        server.client.request("/interrupt", {})
        status = ended(server, name)["status"]
        assert [event for event, _ in status["messages"]][-1] == "execution_interrupted"
        assert torch.equal(over_http(server, graph()), plain)
        server.client.request("/free", {"unload_models": True, "free_memory": True})
        assert torch.equal(over_http(server, graph(first)), guided[0])  # alone, as between others

        begun(server, second)
        server.kill()
    files = sorted(path.name for path in (tmp_path / "output").rglob("*"))
    with HostServer(Path(sys.executable), host_path(), base=tmp_path, packs=packs) as server:
        assert torch.equal(over_http(server, graph(second)), guided[1])
        assert torch.equal(over_http(server, graph()), plain)
    assert files and not [name for name in files if not name.endswith(".latent")]
