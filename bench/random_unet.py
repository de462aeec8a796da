"""UNets of the shape of published models, with random weights: costs do not depend on the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..guidance.attention.capture import differentiable
from ..guidance.prompts.binding import KEY

COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
}
SD15 = COMMON | {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
}
SDXL = COMMON | {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "num_heads": -1,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}


@dataclass(frozen=True)
class Shape:
    """A published model's UNet: name of the host's class for it, its structure, the side of its usual latent, and the
    type its weights are kept in."""

    host: str
    structure: dict[str, Any]
    latent: int
    dtype: str


SHAPES = {"sd15": Shape("SD15", SD15, 64, "float32"), "sdxl": Shape("SDXL", SDXL, 128, "bfloat16")}
FUSED = {"optimized_attention_override": differentiable}
HIGHLIGHTS = {
    "version": 1,
    "text_tokens": [1, 2, 3, 4, 5, 6, 7],
    "highlights": [
        {
            "phrase": phrase,
            "tokens": tokens,
            "strength": 1.0,
            "instances": [{"shapes": [{"type": "stroke", "points": points, "width": 0.1}]}],
        }
        for phrase, tokens, points in (
            ("red circle", [2, 3], [[0.2, 0.2], [0.4, 0.3]]),
            ("blue bar", [6, 7], [[0.6, 0.8], [0.9, 0.6]]),
        )
    ],
}


def build_model(shape: Shape, seed: int) -> Any:
    """A ModelPatcher around a UNet with random weights of variance 1 / fan-in, loaded the way the host loads them."""
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    config = getattr(comfy.supported_models, shape.host)(dict(shape.structure))
    config.set_inference_dtype(getattr(torch, shape.dtype), None)
    device, generator = torch.device("cpu"), torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        model = config.get_model({}, "", device=device)
        for parameter in model.diffusion_model.parameters():
            if parameter.ndim > 1:
                bound = (3 / parameter[0].numel()) ** 0.5
                parameter.data.uniform_(-bound, bound, generator=generator)
            else:
                parameter.data.fill_(1.0 if parameter.ndim else 0.0)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)
    patcher.model_options["transformer_options"].update(FUSED)
    return patcher


def conditionings(shape: Shape, seed: int) -> tuple[list, list]:
    """Random positive (with highlights) and negative conditioning."""
    import torch

    generator, width = torch.Generator().manual_seed(seed + 1), shape.structure["context_dim"]
    positive, negative = (torch.randn(1, 77, width, generator=generator) for _ in range(2))
    pooled = {"pooled_output": torch.zeros(1, 1280)} if shape.structure["adm_in_channels"] else {}
    return [[positive, {KEY: HIGHLIGHTS, **pooled}]], [[negative, pooled]]
