"""ControlNets in checkpoints of their training: finding, checking and taking them out.

The layout is that of the original ControlNet code (Zhang et al. 2023), which GazeFusion uses unchanged for Stable
Diffusion 2.1: ``time_embed``, ``input_blocks``, ``middle_block``, ``input_hint_block``, ``zero_convs``,
``middle_block_out``; a checkpoint of the whole model has them under ``control_model.``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ..guidance.errors import LimelightError

PREFIX = "control_model."
LAST = ("zero_convs.", "middle_block_out.")  # layers that lead out of the network; training starts them at zero
OWN = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.", "input_hint_block.", *LAST)
BOTH = ("weight", "bias")
RESIDUAL = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
TRANSFORMER = ("norm", "proj_in", "proj_out")
ATTENDING = tuple(f"{name}.to_out.0" for name in ("attn1", "attn2")) + ("ff.net.0.proj", "ff.net.2")
ATTENDING += ("norm1", "norm2", "norm3")
PROJECTIONS = tuple(f"{name}.to_{part}.weight" for name in ("attn1", "attn2") for part in "qkv")
HINT = range(0, 16, 2)  # the convolutions of input_hint_block; between them are activations

# what a file holds that is no ControlNet of this layout, by a key of it
AS_IT_IS = "Load ControlNet Model takes it as it is"
OTHERS = {
    "controlnet_cond_embedding.conv_in.weight": f"a ControlNet in the layout of diffusers. {AS_IT_IS}",
    "lora_controlnet": f"a Control-LoRA. {AS_IT_IS}",
    "controlnet_blocks.0.weight": f"a ControlNet for a transformer such as Flux. {AS_IT_IS}",
    "body.0.resnets.0.block1.weight": f"a T2I-Adapter. {AS_IT_IS}",
    "adapter.body.0.resnets.0.block1.weight": f"a T2I-Adapter. {AS_IT_IS}",
    "model.diffusion_model.input_blocks.0.0.weight": "a model without a ControlNet. Take the checkpoint that was saved "
    "in the training of the ControlNet",
}


def extract(state: Mapping, name: str) -> dict[str, torch.Tensor]:
    """A checkpoint's contents -> the ControlNet in it, bare (without prefix). name: of the file, for errors.

    Raises LimelightError where there is none, where it is incomplete (with the keys that are missing), and for
    "difference" files, which only hold what is added to their base model.
    """
    if not isinstance(state, Mapping):
        raise LimelightError(f"{name}: found no weights in it but a value of type {type(state).__name__}.")
    if isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    prefix = next((p for p in (PREFIX, "") if any(str(key).startswith(p + LAST[0]) for key in state)), None)
    if prefix is None:
        raise LimelightError(
            f"{name}: found {_kind(state)}. Expected a ControlNet in the original layout (keys such as "
            "zero_convs.0.0.weight)."
        )
    if "difference" in state:
        raise LimelightError(
            f"{name}: found only the difference between a ControlNet and its base model. Load it with ComfyUI's "
            "DiffControlNetLoader, which adds the base model."
        )
    found = {
        key[len(prefix) :]: value
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and key.startswith(prefix) and key[len(prefix) :].startswith(OWN)
    }
    if lacking := missing(found):
        shown = ", ".join(lacking[:12]) + (f" and {len(lacking) - 12} more" if len(lacking) > 12 else "")
        raise LimelightError(f"{name}: the ControlNet lacks {len(lacking)} tensors: {shown}. Download the file again.")
    return found


def _kind(state: Mapping) -> str:
    for key, kind in OTHERS.items():
        if key in state:
            return kind
    keys = [str(key) for key in state]
    return f"{len(keys)} entries that are no ControlNet ({', '.join(keys[:3])} ...)" if keys else "an empty file"


def missing(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Keys that a ControlNet with these weights has to have and has not, sorted; a block of which nothing is there
    counts as one, with a star.

    Known by the structure, whatever the sizes: there is a last layer for every input block, a module has all of its
    tensors, and all residual blocks between two halvings have alike transformers.
    """
    wanted = {f"time_embed.{i}.{part}" for i in (0, 2) for part in BOTH}
    wanted |= {f"input_hint_block.{i}.{part}" for i in HINT for part in BOTH}
    wanted |= {f"middle_block_out.0.{part}" for part in BOTH} | {f"input_blocks.0.0.{part}" for part in BOTH}
    if any(key.startswith("label_emb.") for key in state):
        wanted |= {f"label_emb.0.{i}.{part}" for i in (0, 2) for part in BOTH}
    count = 1 + max(_numbers(state, "zero_convs") | _numbers(state, "input_blocks"))
    wanted |= {f"zero_convs.{i}.0.{part}" for i in range(count) for part in BOTH}
    for level in _levels(state, count):
        depth = max(_depth(state, f"input_blocks.{i}.1") for i in level)
        for i in level:
            wanted |= _residual(state, f"input_blocks.{i}.0") | _transformer(f"input_blocks.{i}.1", depth)
    for i in range(1, count):
        if _any(state, f"input_blocks.{i}.0.op"):
            wanted |= {f"input_blocks.{i}.0.op.{part}" for part in BOTH}
    wanted |= _residual(state, "middle_block.0") | _residual(state, "middle_block.2")
    wanted |= _transformer("middle_block.1", max(1, _depth(state, "middle_block.1")))
    return sorted(wanted - state.keys())


def _any(state: Iterable[str], module: str) -> bool:
    return any(key.startswith(f"{module}.") for key in state)


def _numbers(state: Iterable[str], module: str) -> set[int]:
    return {int(key.split(".")[1]) for key in state if key.startswith(f"{module}.")}


def _levels(state: Iterable[str], count: int) -> list[list[int]]:
    """Numbers of the residual blocks between halvings."""
    levels: list[list[int]] = [[]]
    for i in range(1, count):
        if _any(state, f"input_blocks.{i}.0.op"):
            levels.append([])
        else:
            levels[-1].append(i)
    return [level for level in levels if level]


def _depth(state: Iterable[str], module: str) -> int:
    """Transformer blocks in a module; 0 if it has none of any transformer's tensors."""
    inside = [key[len(module) + 1 :].split(".") for key in state if key.startswith(f"{module}.")]
    blocks = [int(parts[1]) for parts in inside if parts[0] == "transformer_blocks"]
    return 1 + max(blocks) if blocks else min(1, len(inside))


def _residual(state: Mapping[str, torch.Tensor], module: str) -> set[str]:
    if not _any(state, module):
        return {f"{module}.*"}
    wanted = {f"{module}.{name}.{part}" for name in RESIDUAL for part in BOTH}
    kernel = state.get(f"{module}.in_layers.2.weight")
    if kernel is None or kernel.shape[0] != kernel.shape[1]:
        skip = {f"{module}.skip_connection.{part}" for part in BOTH}
        wanted |= skip if kernel is not None or skip & state.keys() else set()
    return wanted


def _transformer(module: str, depth: int) -> set[str]:
    if not depth:
        return set()
    wanted = {f"{module}.{name}.{part}" for name in TRANSFORMER for part in BOTH}
    for i in range(depth):
        block = f"{module}.transformer_blocks.{i}"
        wanted |= {f"{block}.{name}.{part}" for name in ATTENDING for part in BOTH}
        wanted |= {f"{block}.{name}" for name in PROJECTIONS}
    return wanted


def untrained(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether all layers that lead out of the ControlNet are zero still, so that it does nothing."""
    last = [value for key, value in state.items() if key.startswith(LAST)]
    return not any(value.any() for value in last)


def context_width(state: Mapping[str, torch.Tensor]) -> int | None:
    """Width of the encoded prompts that the ControlNet takes: 768 Stable Diffusion 1, 1024 SD 2, 2048 SDXL."""
    return next((value.shape[1] for key, value in state.items() if key.endswith("attn2.to_k.weight")), None)
