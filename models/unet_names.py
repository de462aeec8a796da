"""What the weights of a Stable Diffusion UNet are called by diffusers, and what in the original code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .controlnet_files import ATTENDING, BOTH, PROJECTIONS, TRANSFORMER

_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_names(structure: dict[str, Any]) -> dict[str, str]:
    """Diffusers name -> original name of every weight that a UNet of this structure can have, by ComfyUI's names of
    settings: ``num_res_blocks`` a level, ``transformer_depth`` a layer (``_output``: those of the output blocks, from
    the end; ``_middle``: of the middle)."""
    counts = structure["num_res_blocks"]
    depths, depths_out = iter(structure["transformer_depth"]), iter(structure["transformer_depth_output"][::-1])
    modules = dict(_ENDS)
    pairs: list[tuple[str, str]] = []

    def layer(theirs: str, number: int, original: str, depth: int) -> None:
        modules.update(
            {f"{theirs}.resnets.{number}.{name}": f"{original}.0.{other}" for name, other in _RESIDUAL.items()}
        )
        pairs.extend(_transformer(f"{theirs}.attentions.{number}", f"{original}.1", depth))

    place = 1
    for level, count in enumerate(counts):
        for number in range(count):
            layer(f"down_blocks.{level}", number, f"input_blocks.{place}", next(depths))
            place += 1
        modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{place}.0.op"
        place += 1
    place = 0
    for level, count in enumerate(reversed(counts)):
        for number in range(count + 1):
            depth = next(depths_out)
            layer(f"up_blocks.{level}", number, f"output_blocks.{place}", depth)
            if number == count:
                after = 2 if depth else 1
                modules[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{place}.{after}.conv"
            place += 1
    for number, original in enumerate(("middle_block.0", "middle_block.2")):
        for name, other in _RESIDUAL.items():
            modules[f"mid_block.resnets.{number}.{name}"] = f"{original}.{other}"
    middle = structure["transformer_depth_middle"]
    pairs.extend(_transformer("mid_block.attentions.0", "middle_block.1", middle, always=True))
    pairs.extend((f"{theirs}.{end}", f"{original}.{end}") for theirs, original in modules.items() for end in BOTH)
    return dict(pairs)


def _transformer(theirs: str, original: str, depth: int, always: bool = False) -> Iterator[tuple[str, str]]:
    """always: name the layers around the blocks even if there are none."""
    inner = [f"{name}.{end}" for name in TRANSFORMER for end in BOTH] if depth or always else []
    for block in range(depth):
        weights = [f"{name}.{end}" for name in ATTENDING for end in BOTH] + list(PROJECTIONS)
        inner += [f"transformer_blocks.{block}.{name}" for name in weights]
    for name in inner:
        yield f"{theirs}.{name}", f"{original}.{name}"
