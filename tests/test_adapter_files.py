"""T2I-Adapter files: every layout in circulation, what is refused, and writing them."""

from __future__ import annotations

import json
import subprocess
import sys

import adapter_weights
import pytest
import torch
from adapter_weights import NARROW, PUBLISHED, full, light
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from limelight.guidance.errors import LimelightError

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture(scope="module")
def files(host):
    from limelight.models import adapter_files

    return adapter_files


def as_diffusers(files, state: dict) -> dict:
    return files.diffusers_names(files.build(state, "x"))[0]


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + key: value for key, value in state.items()}


A, XL, C = full(192), full(256), light()


def layouts(files) -> dict[str, tuple[dict, dict]]:
    """Name -> what the file holds, and the same under the original names."""
    b, d, xl = as_diffusers(files, A), as_diffusers(files, C), as_diffusers(files, XL)
    three = full(64, NARROW[:3])
    return {
        "A, full": (A, A),
        "A, one channel": (full(64), full(64)),
        "A, kernels of 3": (full(192, kernel=3), full(192, kernel=3)),
        "A, strided convolutions": (full(192, down_convs=True), full(192, down_convs=True)),
        "A, SDXL": (XL, XL),
        "A, SDXL, three channels": (full(768), full(768)),
        "B, diffusers full": (b, A),
        "B, diffusers SDXL": (xl, XL),
        "C, light": (C, C),
        "D, diffusers light": (d, C),
        "lightning": (prefixed("adapter.", A), A),
        "lightning, light": (prefixed("adapter.", C), C),
        "nested": ({"adapter": A, "epoch": 3}, A),
        "nested twice": ({"state_dict": {"adapter": C}}, C),
        "DDP": (prefixed("module.", A), A),
        "DDP of diffusers": (prefixed("module.", b), A),
        "a trainer's whole state": ({**prefixed("adapter.", A), "unet.out.0.weight": torch.ones(2)}, A),
        "three levels": (three, three),
        "three levels, diffusers": (as_diffusers(files, three), three),
    }


NAMES = [
    "A, full", "A, one channel", "A, kernels of 3", "A, strided convolutions", "A, SDXL", "A, SDXL, three channels",
    "B, diffusers full", "B, diffusers SDXL", "C, light", "D, diffusers light", "lightning", "lightning, light",
    "nested", "nested twice", "DDP", "DDP of diffusers", "a trainer's whole state", "three levels",
    "three levels, diffusers",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_layouts(files, name):
    known = layouts(files)
    assert list(known) == NAMES
    found, original = known[name]
    state = files.build(found, name).state_dict()
    assert state.keys() == original.keys()
    assert all(torch.equal(state[key], original[key]) for key in state)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_files(files, tmp_path, ending):
    path = tmp_path / f"adapter.{ending}"
    save_file(A, path) if ending == "safetensors" else torch.save(A, path)
    form = files.load(path).form
    assert (form.light, form.channels, form.hint_channels, form.unshuffle) == (False, NARROW, 3, 8)


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_pth_runs_nothing(files, tmp_path, capsys):
    torch.save({**A, "x": Harmful()}, tmp_path / "a.pth")
    try:
        files.load(tmp_path / "a.pth")
    except LimelightError as error:
        assert "a.pth" in str(error)
    assert "run" not in capsys.readouterr().out


def test_forms(files):
    def form(state, kind="automatic"):
        made = files.build(state, "x", kind).form
        return made.hint_channels, made.unshuffle, made.strides, made.reach

    # reach: measured by moving the hint's pixels (see test_reach), and as published networks have it
    assert form(A) == (3, 8, (8, 16, 32, 64), (24, 56, 120, 248))
    assert form(XL) == (1, 16, (16, 16, 32, 32), (48, 80, 144, 208))
    assert form(C)[:3] == (3, 8, (8, 16, 32, 64))
    assert form(XL, "SD 1.x or 2.x")[:2] == (4, 8)
    assert form(full(64, NARROW[:3]), "SDXL")[:3] == (1, 8, (8, 16, 32))


@pytest.mark.parametrize(
    "state", [full(64), full(256), light(64), full(64, kernel=3)], ids=["full", "xl", "light", "k3"]
)
def test_reach(files, state):
    """A point of the hint is felt as far as `reach` says, and no further."""
    network = files.build(state, "x")
    side = 1024 if network.form.light else 512
    hint = torch.zeros(1, 1, side, side, requires_grad=True)
    with torch.inference_mode(False), torch.enable_grad():
        for feature, stride, reach in zip(network(hint), network.form.strides, network.form.reach, strict=True):
            middle = feature.shape[-1] // 2
            (felt,) = torch.autograd.grad(feature[0, :, middle, middle].abs().sum(), hint, retain_graph=True)
            rows = felt[0, 0].abs().sum(1).nonzero().flatten()
            first, last = middle * stride - reach, (middle + 1) * stride + reach - 1
            assert (int(rows[0]), int(rows[-1])) == (max(first, 0), min(last, side - 1))


REFUSED = {
    "style": ({"style_embedding": torch.zeros(1, 8, 4), "proj": torch.zeros(4, 4)}, "style adapter"),
    "fuser": (adapter_weights.fuser(), "CoAdapter"),
    "cascade": ({"backbone.0.0.weight": torch.zeros(1)}, "Cascade"),
    "cascade, large": ({"backbone.10.blocks.0.weight": torch.zeros(1)}, "Cascade"),
    "controlnet": ({"control_model.zero_convs.0.0.weight": torch.zeros(1)}, "a ControlNet"),
    "union controlnet": (
        {"controlnet_down_blocks.0.weight": torch.zeros(1), "task_embedding": torch.zeros(6, 320)},
        "Net",
    ),
    "another thing": ({"model.weight": torch.zeros(1)}, "not a T2I-Adapter"),
    "nothing": ({}, "not a T2I-Adapter"),
    "a list": ([1, 2], "not a T2I-Adapter"),
    "incomplete": ({key: value for key, value in A.items() if key != "body.3.block2.bias"}, "body.3.block2.bias"),
    "wrong shape": ({**A, "body.5.block2.bias": torch.zeros(3)}, "body.5.block2.bias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(files, name):
    state, reason = REFUSED[name]
    with pytest.raises(LimelightError, match=reason):
        files.build(state, "file.safetensors")


def test_impossible_fold(files):
    with pytest.raises(LimelightError, match="100 channels"):
        files.build(full(100), "x")


@pytest.mark.parametrize(("kind", "cin"), [("full_adapter", 64), ("full_adapter_xl", 768), ("light_adapter", 192)])
def test_features_are_those_of_diffusers(files, kind, cin):
    """Published widths; sizes at which both round alike."""
    from diffusers import T2IAdapter

    torch.manual_seed(0)
    fold = 16 if "xl" in kind else 8
    channels = list(PUBLISHED[:3] if kind == "light_adapter" else PUBLISHED)
    theirs = T2IAdapter(cin // fold**2, channels, 4 if "light" in kind else 2, fold, kind)
    network = files.build(theirs.state_dict(), "x")
    hint = torch.rand(2, cin // fold**2, 64, 128)
    with torch.inference_mode():
        for own, their in zip(network(hint), theirs(hint), strict=True):
            assert (own - their).abs().max() <= 1e-5 * max(1.0, float(their.abs().max()))
    state, config = files.diffusers_names(network)
    assert {key: config[key] for key in theirs.config if key in config} == {
        k: v for k, v in theirs.config.items() if k in config
    }
    assert state.keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("state", [A, XL, C], ids=["full", "xl", "light"])
def test_round_trip_through_the_command(files, tmp_path, state):
    save_file(state, tmp_path / "in.safetensors")
    command = [sys.executable, "-m", "limelight.tools.convert_adapter"]

    def run(*words):
        subprocess.run([*command, *map(str, words)], check=True, capture_output=True)

    run(tmp_path / "in.safetensors", tmp_path / "folder", "--layout", "diffusers")
    middle = tmp_path / "folder" / "diffusion_pytorch_model.safetensors"
    assert any(".resnets." in key for key in load_file(middle))
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["adapter_type"].endswith(
        {8: "adapter", 16: "xl"}[files.build(state, "x").form.unshuffle]
    )
    run(middle, tmp_path / "out.safetensors")
    back = load_file(tmp_path / "out.safetensors")
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["limelight.adapter.levels"] == "4"


def test_diffusers_has_not_every_form(files):
    with pytest.raises(LimelightError, match="original"):
        files.diffusers_names(files.build(full(192, kernel=3), "x"))
