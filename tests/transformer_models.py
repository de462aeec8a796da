"""Small random diffusion transformers of the host's own classes, and runs of them."""

from __future__ import annotations

from functools import partial
from math import ceil

import torch
from conftest import random_weights
from guided_runs import conditioning, noise

WIDTH = 64  # of the text
POOLED = 32
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": POOLED,
    "context_in_dim": WIDTH,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
}
NEXT = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 64,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 1,
    "axes_dims": [8, 12, 12],
    "axes_lens": [300, 512, 512],
    "qk_norm": True,
    "cap_feat_dim": WIDTH,
    "multiple_of": 32,
    "ffn_dim_multiplier": 1.0,
}
CONFIGS = {
    "SD3": {
        "in_channels": 16,
        "patch_size": 2,
        "depth": 2,
        "input_size": None,
        "adm_in_channels": POOLED,
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": WIDTH, "out_features": 128},
        },
        "num_patches": 24 * 24,
        "pos_embed_max_size": 24,
        "qk_norm": "rms",
        "x_block_self_attn_layers": [0],
    },
    "Flux": FLUX,
    "Flux2": {
        **FLUX,
        "image_model": "flux2",
        "in_channels": 128,
        "out_channels": 128,
        "axes_dim": [8, 8, 8, 8],
        "theta": 2000,
        "patch_size": 1,
        "vec_in_dim": None,
        "qkv_bias": False,
        "ops_bias": False,
        "global_modulation": True,
        "mlp_silu_act": True,
        "default_ref_method": "index",
    },
    "Chroma": {
        **{key: value for key, value in FLUX.items() if key not in ("vec_in_dim", "guidance_embed")},
        "image_model": "chroma",
        "in_channels": 64,
        "out_channels": 64,
        "in_dim": 64,
        "out_dim": 64,
        "hidden_dim": 64,
        "n_layers": 1,
    },
    "Lumina2": NEXT,
    "ZImage": {
        **NEXT,
        "dim": 256,
        "n_heads": 4,
        "n_kv_heads": 4,
        "axes_dims": [16, 24, 24],
        "z_image_modulation": True,
        "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    },
    "QwenImage": {
        "image_model": "qwen_image",
        "in_channels": 64,
        "num_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "axes_dims_rope": (8, 12, 12),
    },
    "WAN21_T2V": {
        "image_model": "wan2.1",
        "model_type": "t2v",
        "dim": 64,
        "ffn_dim": 96,
        "freq_dim": 32,
        "text_dim": WIDTH,
        "num_heads": 2,
        "num_layers": 2,
    },
    "LTXV": {
        "image_model": "ltxv",
        "in_channels": 128,
        "cross_attention_dim": 64,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "caption_channels": WIDTH,
        "num_layers": 2,
    },
    "CosmosT2IPredict2": {
        "image_model": "cosmos_predict2",
        "max_img_h": 32,
        "max_img_w": 32,
        "max_frames": 8,
        "in_channels": 16,
        "out_channels": 16,
        "patch_spatial": 2,
        "patch_temporal": 1,
        "model_channels": 64,
        "num_blocks": 2,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "crossattn_emb_channels": WIDTH,
        "pos_emb_cls": "rope3d",
        "pos_emb_learnable": True,
        "use_adaln_lora": True,
        "adaln_lora_dim": 16,
    },
}
KINDS = list(CONFIGS)
CROSS = ["WAN21_T2V", "LTXV", "CosmosT2IPredict2"]
"""Those with a cross-attention to the text; the others have one joint attention."""
FILMS = ["QwenImage", *CROSS]
"""Those whose image is a film of one frame."""
TOKENS = 20
NEWER = {
    "Flux": {"txt_ids_dims": []},
    "Flux2": {"txt_ids_dims": [3]},
    "Chroma": {"txt_ids_dims": [], "vec_in_dim": POOLED},
}
"""What newer hosts (seen: 0.25, 0.28) ask for besides: the axes on which words are numbered, and more."""


def config_of(kind: str) -> dict:
    """CONFIGS[kind] for the host in use."""
    from comfy.ldm.flux.model import FluxParams

    newer = "txt_ids_dims" in FluxParams.__dataclass_fields__
    return CONFIGS[kind] | (NEWER.get(kind, {}) if newer else {})


def build(kind: str, seed: int = 0):
    """A new ModelPatcher around a tiny transformer with random weights; kind: a key of CONFIGS."""
    import comfy.model_patcher
    import comfy.supported_models

    config = getattr(comfy.supported_models, kind)(config_of(kind))
    config.unet_config = config_of(kind)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    network = model.diffusion_model
    random_weights(network, seed)
    with torch.inference_mode():
        for module in network.modules():
            if "scale" in module._parameters:  # of a norm: at zero, attention would be the same everywhere
                ones = torch.ones_like(module._parameters["scale"])
                module._parameters["scale"] = torch.nn.Parameter(ones, requires_grad=False)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    if kind == "LTXV":  # asks for the mask that its text encoder gives; None is all words
        network.forward = partial(network.forward, attention_mask=None)
    return patcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def latent(kind: str, batch: int = 1, height: int = 16, width: int = 16, seed: int = 0) -> torch.Tensor:
    """Noise of the shape that the host samples."""
    channels = 128 if kind in ("Flux2", "LTXV") else 16
    return noise(batch, channels, *([1] if kind in FILMS else []), height, width, seed=seed)


def prompt(*highlights, tokens: int = TOKENS, seed: int = 5, **options) -> list:
    """A random CONDITIONING for any of them."""
    return conditioning(*highlights, tokens=tokens, seed=seed, pooled_output=noise(1, POOLED, seed=7), **options)


def run(model, positive, x, steps=1, cfg=3.0, sampler="euler", negative=None, **options) -> torch.Tensor:
    """A run of the host's KSampler, in inference mode as in a prompt."""
    import comfy.sample

    with torch.inference_mode():
        common = {"seed": 0, "disable_pbar": True, **options}
        negative = prompt(seed=9) if negative is None else negative
        return comfy.sample.sample(
            model, x, steps, cfg, sampler, "simple", positive, negative, torch.zeros_like(x), **common
        ).clone()


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Relative to the largest value."""
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def sizes(kind: str) -> list[tuple[int, int]]:
    """Latents (h, w): a square one, and one that is flat, odd and of no multiple of 32 pixels."""
    if kind == "CosmosT2IPredict2":  # the host does not take odd ones
        return [(16, 16), (10, 22)]
    return [(16, 16), (9, 22)]


def places(kind: str, size: tuple[int, int], tokens: int = TOKENS) -> tuple[int, int, tuple[int, int], int, int]:
    """Where things are in the calls in which text and image meet, as the host's code has it: first column of the
    conditioning, first row of the image, (h, w) of its tokens, number of queries and keys."""
    patch = 1 if kind in ("Flux2", "LTXV") else 2
    h, w = (ceil(side / patch) for side in size)
    if kind in CROSS:
        return 0, 0, (h, w), h * w, tokens
    if kind == "Flux2":
        return 512 - tokens, 512, (h, w), *[512 + h * w] * 2
    if kind == "ZImage":
        begin = ceil(tokens / 32) * 32
        return 0, begin, (h, w), *[begin + ceil(h * w / 32) * 32] * 2
    return 0, tokens, (h, w), *[tokens + h * w] * 2


def host_mask(amount: float = -5.0) -> dict:
    """Of a prompt for Flux and a latent of 16 x 16: a mask of the host's that adds `amount` to the logits of one
    column."""
    length = places("Flux", (16, 16))[3]
    mask = torch.zeros(1, length, length)
    mask[:, :, 7] = amount
    return {"attention_mask": mask, "attention_mask_img_shape": (8, 8)}


def joint_calls(kind: str) -> int:
    """Calls in a forward in which text and image meet."""
    return 4 if kind in ("Flux", "Flux2", "Chroma") else 2
