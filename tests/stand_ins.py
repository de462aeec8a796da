"""Random weights for the model files that example workflows name: they fit shapeworld's UNet."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from gligen_weights import random_gligen
from safetensors.torch import save_file

STAND_IN = "shapeworld_random.safetensors"  # name of the files that tests write
HINT = (3, 16, 16, 32, 32, 96, 96, 256)  # channels between a ControlNet's first layers; then come the UNet's own
WEAK = 0.1  # gain of a ControlNet's last layers: felt, but the model is not drowned


def write(models: Path, name: str) -> None:
    """Write a ControlNet and a GLIGEN of this file name into a host's folder of models. Needs the imported host."""
    from limelight.shapeworld.nodes import load

    network = load()[0].model.diffusion_model
    width = network.input_blocks[1][1].transformer_blocks[0].attn2.to_k.in_features
    files = {f"controlnet/{name}": control_net(network), f"gligen/{name}": random_gligen(network, width)}
    for file, state in files.items():
        (models / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(state, models / file)


def inpainting(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same ControlNet (original layout) with nine input channels."""
    first = state["input_blocks.0.0.weight"]
    more = torch.randn(first.shape[0], 5, 3, 3, generator=torch.Generator().manual_seed(5)) / (5 * 9) ** 0.5
    return {**state, "input_blocks.0.0.weight": torch.cat([first, more.to(first)], 1)}


def control_net(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A ControlNet in the original layout, as training starts but for its last layers: those would be zero."""
    weights = network.state_dict().items()
    state = {key: value.clone() for key, value in weights if not key.startswith(("output_blocks.", "out."))}
    generator = torch.Generator().manual_seed(4)

    def convolution(name: str, given: int, out: int, side: int, gain: float) -> None:
        kernel = torch.randn(out, given, side, side, generator=generator)
        state[f"{name}.weight"] = kernel * gain / (given * side * side) ** 0.5
        state[f"{name}.bias"] = torch.zeros(out)

    channels = (*HINT, network.input_blocks[0][0].out_channels)
    for number, (given, out) in enumerate(pairwise(channels)):
        convolution(f"input_hint_block.{2 * number}", given, out, 3, 1.0)
    for number, layers in enumerate(network.input_blocks):
        out = layers[0].out_channels
        convolution(f"zero_convs.{number}.0", out, out, 1, WEAK)
    convolution("middle_block_out.0", out, out, 1, WEAK)
    return state
