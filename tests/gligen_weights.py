"""Random GLIGEN weights that fit a UNet of the host, in every published layout."""

from __future__ import annotations

import re

import torch

XL = {  # the block structure of SDXL: none, 2 and 10 transformer blocks a level, here 2 and 3
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 3, 3],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 3, 3, 3],
    "transformer_depth_middle": 3,
    "num_heads": -1,
    "num_head_channels": 16,
}
SD1 = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}


def random_gligen(network, features: int, tokens: int | None = None, seed: int = 6) -> dict[str, torch.Tensor]:
    """In the pruned layout. features: width of a phrase's feature; tokens: of a grounding token, by default as wide."""
    from comfy.ldm.modules.attention import SpatialTransformer

    tokens = tokens or features
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def layer(name: str, out: int, given: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = torch.randn(out, given, generator=generator) / given**0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(out, generator=generator) / 10

    for name, module in network.named_modules():
        if not isinstance(module, SpatialTransformer):
            continue
        for index, block in enumerate(module.transformer_blocks):
            dim, fuser = block.norm3.normalized_shape[0], f"{name}.transformer_blocks.{index}.fuser"
            layer(f"{fuser}.linear", dim, tokens)
            for part in ("q", "k", "v"):
                layer(f"{fuser}.attn.to_{part}", dim, dim, bias=False)
            layer(f"{fuser}.attn.to_out.0", dim, dim)
            layer(f"{fuser}.ff.net.0.proj", 8 * dim, dim)
            layer(f"{fuser}.ff.net.2", dim, 4 * dim)
            for norm in ("norm1", "norm2"):
                state[f"{fuser}.{norm}.weight"] = 1 + torch.randn(dim, generator=generator) / 10
                state[f"{fuser}.{norm}.bias"] = torch.randn(dim, generator=generator) / 10
            state[f"{fuser}.alpha_attn"] = torch.tensor(0.7)
            state[f"{fuser}.alpha_dense"] = torch.tensor(-0.5)
    for number, (out, given) in {0: (512, features + 64), 2: (512, 512), 4: (tokens, 512)}.items():
        layer(f"position_net.linears.{number}", out, given)
    state["position_net.null_positive_feature"] = torch.randn(features, generator=generator)
    state["position_net.null_position_feature"] = torch.randn(64, generator=generator)
    return state


def in_diffusers(state: dict[str, torch.Tensor], per_level: int) -> dict[str, torch.Tensor]:
    """The pruned layout with diffusers' names. per_level: attentions of a level going down."""
    levels = {"input": ("down_blocks", 1), "output": ("up_blocks", 0)}

    def name(match: re.Match) -> str:
        if match[1] == "middle":
            return "mid_block.attentions.0."
        blocks, first = levels[match[1]]
        level, attention = divmod(int(match[2]) - first, per_level + 1)
        return f"{blocks}.{level}.attentions.{attention}."

    return {re.sub(r"^(input|middle|output)_blocks?\.(?:(\d+)\.)?\d+\.", name, key): state[key] for key in state}


def gligen_of(state: dict[str, torch.Tensor]):
    """The host's ModelPatcher around the pack's model, its weights inference tensors as in a prompt."""
    from limelight.models import gligen, gligen_keys

    with torch.inference_mode():
        return gligen.build(gligen_keys.read({key: value.clone() for key, value in state.items()}, "test"))
