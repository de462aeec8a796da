"""ControlNets and UNets of Stable Diffusion 1, 2 and XL: finding them in a file, and their two layouts.

The diffusers layout numbers levels and their layers (down_blocks.1.resnets.0.conv1), ComfyUI and the original code
number all blocks through (input_blocks.4.0.in_layers.2); the tensors are the same."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch

from ..guidance.errors import LimelightError
from .unet_names import unet_names

State = dict[str, torch.Tensor]

# a weight that every network of the kind has, by layout
CONTROLNET = {"diffusers": "controlnet_cond_embedding.conv_in.weight", "original": "input_hint_block.0.weight"}
UNET = {"diffusers": "up_blocks.0.resnets.0.time_emb_proj.weight", "original": "output_blocks.0.0.emb_layers.1.weight"}
FIRST = {"diffusers": "conv_in.weight", "original": "input_blocks.0.0.weight"}


def find(contents: Any, marks: dict[str, str]) -> tuple[State, str] | None:
    """The network that has one of the marks, wherever it is in a file's contents: in dictionaries in dictionaries,
    behind any prefix. -> its tensors without the prefix, and its layout; None: there is none."""
    if not isinstance(contents, dict):
        return None
    named = {key: value for key, value in contents.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    for layout, mark in marks.items():
        for key in named:
            prefix = key.removesuffix(mark)
            if prefix != key and (not prefix or prefix.endswith(".")) and prefix + FIRST[layout] in named:
                parts = {name.removeprefix(prefix): each for name, each in named.items() if name.startswith(prefix)}
                return parts, layout
    inner = (find(value, marks) for value in contents.values() if isinstance(value, dict))
    return next((found for found in inner if found is not None), None)


def first_convolution(state: State, layout: str, name: str) -> tuple[int, int]:
    """-> channels that go in, channels that come out. Raises LimelightError if the weight is no 2-D convolution's."""
    shape = tuple(state[FIRST[layout]].shape)
    if len(shape) != 4:
        raise LimelightError(
            f"{name}: {FIRST[layout]} has the shape {shape}; expected that of a 3 x 3 convolution. The file is "
            "damaged, or quantised for another program. Download it again."
        )
    return shape[1], shape[0]


def to_original(state: State, name: str) -> State:
    """Diffusers layout -> the original one; the tensors are shared. Raises LimelightError for unknown names."""
    names = original_names(state, name)
    return {names[key]: value for key, value in state.items()}


def original_names(state: State, name: str) -> dict[str, str]:
    """What the weights of a network in the diffusers layout are called in the original one."""
    known = _names(_structure_of_diffusers(state), _count(state, "controlnet_cond_embedding.blocks.{}."))
    unknown = [key for key in state if key not in known]
    if unknown:
        raise LimelightError(
            f"{name}: {len(unknown)} of its {len(state)} weights have no place in a model of Stable Diffusion, "
            f"for example {unknown[0]}. Expected the diffusers layout without additions."
        )
    return {key: known[key] for key in state}


def to_diffusers(state: State) -> State:
    """Original layout -> that of diffusers; the tensors are shared. The inverse of `to_original`."""
    import comfy.model_detection

    structure = comfy.model_detection.detect_unet_config(state, "")
    blocks = sum(count + 1 for count in structure["num_res_blocks"])
    if len(structure["transformer_depth_output"]) < blocks:  # a ControlNet has no output blocks
        structure["transformer_depth_output"] = [0] * blocks
    hints = _count(state, "input_hint_block.{}.") // 2 - 1  # the first and the last have names of their own
    back = {original: key for key, original in _names(structure, hints).items()}
    return {back[key]: value for key, value in state.items()}


def _structure_of_diffusers(state: State) -> dict[str, Any]:
    """What the host's map needs to know: layers a level and transformer blocks a layer."""
    levels = _count(state, "down_blocks.{}.")
    layers = [_count(state, f"down_blocks.{level}.resnets.{{}}.") for level in range(levels)]

    def depths(side: str, level: int, count: int) -> list[int]:
        places = (f"{side}_blocks.{level}.attentions.{layer}.transformer_blocks.{{}}." for layer in range(count))
        return [_count(state, place) for place in places]

    down = [depth for level, count in enumerate(layers) for depth in depths("down", level, count)]
    up = [depth for level, count in enumerate(reversed(layers)) for depth in depths("up", level, count + 1)]
    return {
        "num_res_blocks": layers,
        "channel_mult": [1] * levels,  # only how many there are
        "transformer_depth": down,
        "transformer_depth_output": up[::-1],  # the host takes them from the end
        "transformer_depth_middle": _count(state, "mid_block.attentions.0.transformer_blocks.{}."),
    }


def _names(structure: dict[str, Any], hints: int) -> dict[str, str]:
    """Diffusers name -> original name of every weight that such a network can have. hints: inner layers of the encoder
    of the hint."""
    known = unet_names(structure)
    modules = {"controlnet_mid_block": "middle_block_out.0", "controlnet_cond_embedding.conv_in": "input_hint_block.0"}
    modules |= {f"controlnet_cond_embedding.blocks.{i}": f"input_hint_block.{2 * i + 2}" for i in range(hints)}
    modules["controlnet_cond_embedding.conv_out"] = f"input_hint_block.{2 * hints + 2}"
    zeros = sum(count + 1 for count in structure["num_res_blocks"])
    modules |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(zeros)}
    return known | {f"{k}.{end}": f"{v}.{end}" for k, v in modules.items() for end in ("weight", "bias")}


def _count(names: Iterable[str], pattern: str) -> int:
    """How many of the pattern's places there are: one more than the highest number."""
    found = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)"))
    return max((int(match[1]) + 1 for match in map(found.match, names) if match), default=0)
