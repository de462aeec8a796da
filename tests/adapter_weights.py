"""Random T2I-Adapters in every layout, small unless a published width is asked for."""

from __future__ import annotations

import torch

NARROW = (32, 64, 128, 128)  # those of the narrow UNets of conftest
PUBLISHED = (320, 640, 1280, 1280)


def fill(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Normal weights of unit gain; biases too, so that a blank hint is felt."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        fan = torch.Size(shape[1:]).numel() if len(shape) > 1 else 10
        state[key] = torch.randn(shape, generator=generator) / fan**0.5
    return state


def full(cin: int, channels=NARROW, kernel: int = 1, blocks: int = 2, down_convs: bool = False, seed: int = 0) -> dict:
    """Layout A. cin: channels of the folded hint; 256 and 768 mean SDXL."""
    xl = cin in (256, 768)
    shapes = {"conv_in": (channels[0], cin, 3)}
    for level, width in enumerate(channels):
        given = channels[max(level - 1, 0)]
        for number in range(blocks):
            stem = f"body.{level * blocks + number}"
            if number == 0 and down_convs and (level == 2 if xl else level > 0):
                shapes[f"{stem}.down_opt.op"] = (given, given, 3)
            if number == 0 and given != width:
                shapes[f"{stem}.in_conv"] = (width, given, kernel)
            shapes |= {f"{stem}.block1": (width, width, 3), f"{stem}.block2": (width, width, kernel)}
    return fill(_convolutions(shapes), seed)


def light(cin: int = 192, channels=NARROW, blocks: int = 4, seed: int = 0) -> dict:
    """Layout C."""
    shapes, given = {}, cin
    for level, width in enumerate(channels):
        inner = width // 4
        shapes |= {f"body.{level}.in_conv": (inner, given, 1), f"body.{level}.out_conv": (width, inner, 1)}
        for number in range(blocks):
            shapes |= {f"body.{level}.body.{number}.block{i}": (inner, inner, 3) for i in (1, 2)}
        given = width
    return fill(_convolutions(shapes), seed)


def _convolutions(shapes: dict[str, tuple[int, int, int]]) -> dict[str, tuple[int, ...]]:
    return {
        f"{key}.{name}": size
        for key, (out, given, side) in shapes.items()
        for name, size in (("weight", (out, given, side, side)), ("bias", (out,)))
    }


def fuser(channels=NARROW, width: int = 64, layers: int = 3, seed: int = 0) -> dict:
    """A fuser of CoAdapters; its last projections, zero when training starts, are felt."""
    shapes: dict[str, tuple[int, ...]] = {"task_embedding": (16, width), "seq_proj": (width, width)}
    shapes["positional_embedding"] = (len(channels), width)
    for i, channel in enumerate(channels):
        shapes |= {f"spatial_feat_mapping.{i}.1.weight": (width, channel), f"spatial_feat_mapping.{i}.1.bias": (width,)}
        shapes |= {f"spatial_ch_projs.{i}.weight": (channel, width), f"spatial_ch_projs.{i}.bias": (channel,)}
    names = ["ln_pre", "ln_post", *(f"transformer_layes.{i}.ln_{j}" for i in range(layers) for j in (1, 2))]
    shapes |= {f"{name}.{kind}": (width,) for name in names for kind in ("weight", "bias")}
    for i in range(layers):
        stem = f"transformer_layes.{i}"
        for name, size in (
            ("attn.in_proj", (3 * width, width)),
            ("attn.out_proj", (width, width)),
            ("mlp.c_fc", (4 * width, width)),
            ("mlp.c_proj", (width, 4 * width)),
        ):
            joint = "_" if name.endswith("in_proj") else "."
            shapes |= {f"{stem}.{name}{joint}weight": size, f"{stem}.{name}{joint}bias": size[:1]}
    return fill(shapes, seed)
