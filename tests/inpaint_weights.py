"""Small inpainting UNets and ControlNets with random weights, made by diffusers, and what the tests load them with."""

from __future__ import annotations

import torch

from limelight.tools.torchvision_ops import define_missing_operators

define_missing_operators()  # before diffusers, which imports torchvision

from diffusers import ControlNetModel, UNet2DConditionModel  # noqa: E402

SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
XL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
PUBLISHED = {"SD1.5": SD1, "SD2": SD2, "SDXL": XL}
SMALL = {  # two levels with attention in the first; what the host knows a family by stays
    "block_out_channels": (320, 320),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 5,
}
NARROW = SMALL | {"block_out_channels": (64, 64), "cross_attention_dim": 64, "attention_head_dim": 1}


def unet(**changes) -> UNet2DConditionModel:
    """An inpainting UNet of diffusers, with nine channels if nothing else is said."""
    return UNet2DConditionModel(**{"in_channels": 9, **changes}).eval().requires_grad_(False)


def control_net(seed: int = 3, **changes) -> ControlNetModel:
    """A ControlNet as training leaves it: the layers that start at zero are not zero any more."""
    changes = {key: value for key, value in changes.items() if key != "up_block_types"}
    made = ControlNetModel(**{"in_channels": 9, **changes}).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in made.named_parameters():
        if weight.device.type != "meta" and weight.ndim == 4 and not weight.any():
            weight.normal_(0, 1 / weight[0].numel() ** 0.5, generator=generator)
            assert name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out"))
    return made


def small_state(**changes) -> dict[str, torch.Tensor]:
    """Weights of a narrow ControlNet in the diffusers layout."""
    torch.manual_seed(0)
    return {key: value.clone() for key, value in control_net(**{**NARROW, **changes}).state_dict().items()}
