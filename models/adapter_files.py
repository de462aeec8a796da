"""T2I-Adapter files: the layouts in circulation, told apart by their tensors, and writing two of them.

Full and light adapters exist with the names of the original code (``body.0.block1.weight``) and of diffusers
(``adapter.body.0.resnets.0.block1.weight``), with prefixes of trainers, nested in dictionaries, with three levels or
four. Inside the pack the original names are used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..guidance.errors import LimelightError
from ..guidance.local.region import WHERE
from . import files
from .adapter import XL_INPUTS, Adapter, Form

INPUT = "adapter_name"  # of the loader, for errors
KINDS = ("automatic", "SD 1.x or 2.x", "SDXL")
"""What the loader's user may say about the base model."""
MASK_MODE = "limelight.adapter.mask_mode"  # in a file's metadata
_WRAPPERS = ("state_dict", "adapter", "module", "model")
_FULL = re.compile(r"body\.(\d+)\.resnets\.(\d+)\.(.+)")
_JOIN = re.compile(r"body\.(\d+)\.in_conv\.(.+)")


def load(path: Path, kind: str = KINDS[0]) -> Adapter:
    """The network in a file, weights set. kind: one of KINDS. Raises LimelightError for what is no T2I-Adapter."""
    return build(files.read(path, INPUT), path.name, kind)


def build(found: Any, name: str, kind: str = KINDS[0], convolution: type | None = None) -> Adapter:
    """The network of a file's contents. name: of the file, for errors. convolution: as `Adapter` takes it."""
    if kind not in KINDS:
        raise LimelightError(f"base_model: found {kind!r}; expected one of {', '.join(KINDS)}.")
    state = original_names(found, name)
    network = Adapter(_form(state, name, kind), convolution)
    wanted = network.state_dict()
    wrong = sorted({*wanted} ^ {*state}) or sorted(key for key in wanted if wanted[key].shape != state[key].shape)
    if wrong:
        raise LimelightError(
            f"{INPUT}: {name} looks like a T2I-Adapter, but {len(wrong)} of its tensors do not fit together, the first "
            f"{wrong[0]}. The file is incomplete, or of a kind that is not known."
        )
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False)


def mask_mode(path: Path) -> str | None:
    """What the mask of a region was put on while the adapter in a file was trained, one of `region.WHERE`; None where
    the file does not say."""
    if path.suffix not in (".safetensors", ".sft"):
        return None
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        said = (file.metadata() or {}).get(MASK_MODE)
    return said if said in WHERE else None


def unwrapped(found: Any) -> dict[str, torch.Tensor]:
    """The tensors of a file without the dictionaries and prefixes that trainers put around them."""
    while isinstance(found, Mapping):
        inner = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    found = found if isinstance(found, Mapping) else {}
    state = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
    for prefix in ("module.", "adapter.", "module."):
        inside = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        if any(key.startswith(("body.", "adapter.", "module.")) for key in inside):
            state = inside
    return state


def original_names(found: Any, name: str) -> dict[str, torch.Tensor]:
    """The tensors of any layout under the original names. Raises LimelightError for other kinds of files."""
    state = unwrapped(found)
    _refuse_others(state, name)
    if "body.0.resnets.0.block1.weight" not in state:
        return state
    light = "body.0.out_conv.weight" in state
    blocks = sum(key.startswith("body.0.resnets.") and key.endswith(".block1.weight") for key in state)
    renamed = {}
    for key, value in state.items():
        if match := _FULL.fullmatch(key):
            level, number, rest = int(match[1]), int(match[2]), match[3]
            key = f"body.{level}.body.{number}.{rest}" if light else f"body.{level * blocks + number}.{rest}"
        elif not light and (match := _JOIN.fullmatch(key)):
            key = f"body.{int(match[1]) * blocks}.in_conv.{match[2]}"
        renamed[key] = value
    return renamed


def diffusers_names(network: Adapter) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A network's weights under diffusers' names, and the config.json that belongs to them. Raises LimelightError for
    forms that diffusers does not have."""
    form = network.form
    if form.down_convs or form.kernel != 1:
        raise LimelightError(
            "layout: this adapter has convolutions that diffusers' T2IAdapter does not know. Export it as 'original'."
        )
    if form.light and form.channels[-2:-1] != form.channels[-1:]:
        raise LimelightError(
            "layout: diffusers' light adapters have two coarsest levels of one width; this one has not."
        )
    state = {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        if form.light and parts[2] == "body":
            parts[2] = "resnets"
        elif not form.light and parts[0] == "body":
            level, number = divmod(int(parts[1]), form.blocks)
            parts[1:2] = [str(level)] if parts[2] == "in_conv" else [str(level), "resnets", str(number)]
        state[".".join(("adapter", *parts))] = value
    kind = "light_adapter" if form.light else "full_adapter_xl" if form.xl else "full_adapter"
    config = {
        "_class_name": "T2IAdapter",
        "adapter_type": kind,
        "channels": list(form.channels[:-1] if form.light else form.channels),
        "downscale_factor": form.unshuffle,
        "in_channels": form.hint_channels,
        "num_res_blocks": form.blocks,
    }
    return state, config


def write_diffusers(folder: Path, network: Adapter, about: dict[str, str]) -> Path:
    """Write a network as its folder for diffusers. about: metadata of the weights. -> their file. Raises LimelightError
    for forms that diffusers does not have, before anything is written."""
    state, config = diffusers_names(network)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "diffusion_pytorch_model.safetensors"
    files.write_whole(file, {key: value.contiguous() for key, value in state.items()}, about)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return file


def metadata(network: Adapter, **more: str) -> dict[str, str]:
    """What a safetensors file of this network says about it. more: such as the kind of hint, or how it was trained."""
    form = network.form
    known = {
        "kind": "light" if form.light else "full",
        "levels": len(form.channels),
        "unshuffle": form.unshuffle,
        "base": "sdxl" if form.xl else "sd",
        "hint_channels": form.hint_channels,
    }
    return {f"limelight.adapter.{key}": str(value) for key, value in (known | more).items()}


def _refuse_others(state: dict[str, torch.Tensor], name: str) -> None:
    kinds = (
        ("spatial_ch_projs.0.weight", "the fuser of CoAdapters. Load it with CoAdapter, and an adapter here"),
        ("style_embedding", "a style adapter: it has no places, so nothing local can be done with it. Use ComfyUI's "
         "Load Style Model"),
        ("backbone.0.0.weight", "a control model for Stable Cascade, not a T2I-Adapter. Use ComfyUI's Load "
         "ControlNet Model, and Control Region for the mask"),
        ("backbone.10.blocks.0.weight", "a control model for Stable Cascade, not a T2I-Adapter. Use ComfyUI's Load "
         "ControlNet Model, and Control Region for the mask"),
    )  # fmt: skip
    for key, what in kinds:
        if key in state:
            raise LimelightError(f"{INPUT}: {name} is {what}.")
    full = "conv_in.weight" in state and any(key.startswith("body.0.") for key in state)
    light = "body.0.in_conv.weight" in state and "body.0.out_conv.weight" in state
    if not full and not light:
        control = any("zero_convs." in key or key.startswith("controlnet_") for key in state)
        what = "a ControlNet" if control else "not a T2I-Adapter"
        remedy = "Load it with ComfyUI's Load ControlNet Model; Control Region gives it a mask, too."
        raise LimelightError(f"{INPUT}: {name} is {what}. {remedy if control else 'Choose another file.'}")


def _form(state: dict[str, torch.Tensor], name: str, kind: str) -> Form:
    light = "conv_in.weight" not in state
    bodies = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body."))
    if light:
        blocks = sum(key.startswith("body.0.body.") and key.endswith(".block1.weight") for key in state)
        channels = [
            state.get(f"body.{i}.out_conv.weight", state["body.0.out_conv.weight"]).shape[0] for i in range(bodies)
        ]
        folded, more = state["body.0.in_conv.weight"].shape[1], {}
    else:
        widths = [
            state[f"body.{i}.block1.weight"].shape[0] for i in range(bodies) if f"body.{i}.block1.weight" in state
        ]
        blocks = next((i for i, width in enumerate(widths) if width != widths[0]), min(2, len(widths)))
        channels = widths[::blocks]
        folded = state["conv_in.weight"].shape[1]
        more = {
            "kernel": state["body.0.block2.weight"].shape[-1],
            "down_convs": any(key.endswith("down_opt.op.weight") for key in state),
        }
    xl = folded in XL_INPUTS and not light if kind == KINDS[0] else kind == KINDS[2]
    # an adapter of three levels that folds by 8 fits SDXL as it is: each level at one of its sizes
    unshuffle = 16 if xl and folded % 256 == 0 and len(channels) == 4 else 8
    if folded % unshuffle**2:
        raise LimelightError(
            f"{INPUT}: {name} takes {folded} channels, which is no hint folded by {unshuffle} ({unshuffle**2} for each "
            "of its channels). Choose the right base_model, or another file."
        )
    return Form(light, tuple(channels), folded // unshuffle**2, unshuffle, blocks, **more)
