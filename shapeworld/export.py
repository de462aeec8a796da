"""Write the trained networks as one safetensors file in the layout of an SD1 checkpoint.

    python -m limelight.shapeworld.export --work DIR --host HOST --out shapeworld/nodes/shapeworld.safetensors

Only the embedding rows of the words that the scenes use are stored; the loader spreads them over CLIP's 49,408.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from .networks import HEADS, MAX_TOKENS, TEXT_LAYERS, TEXT_WIDTH, UNET_CHANNELS, Vocabulary

# isort: split
# after .networks, which makes torchvision importable
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel


def unet_config(in_channels: int) -> dict:
    """The host's description of ``networks.build_unet``."""
    base, levels = UNET_CHANNELS[0], len(UNET_CHANNELS)
    return {
        "use_checkpoint": False,
        "image_size": 32,
        "in_channels": in_channels,
        "out_channels": 4,
        "model_channels": base,
        "num_res_blocks": [1] * levels,
        "channel_mult": [width // base for width in UNET_CHANNELS],
        "transformer_depth": [1] * levels,
        "transformer_depth_output": [1] * (2 * levels),
        "transformer_depth_middle": 1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "use_temporal_attention": False,
        "legacy": False,
        "adm_in_channels": None,
        "context_dim": TEXT_WIDTH,
        "num_heads": HEADS,
        "num_head_channels": -1,
    }


def vae_config(vae: AutoencoderKL) -> dict:
    widths = vae.config.block_out_channels
    return {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": vae.config.layers_per_block,
        "attn_resolutions": [],
        "dropout": 0.0,
    }


def text_config() -> dict:
    return {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": MAX_TOKENS,
    }


def checkpoint(work: Path, host: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """-> tensors by SD1 key, and the metadata that the loader needs."""
    sys.path.insert(0, str(host))
    from comfy.diffusers_convert import convert_vae_state_dict
    from comfy.utils import unet_to_diffusers

    unet = UNet2DConditionModel.from_pretrained(work / "unet")
    vae = AutoencoderKL.from_pretrained(work / "vae")
    text = CLIPTextModel.from_pretrained(work / "text_encoder")
    config = unet_config(unet.config.in_channels)
    renamed = unet_to_diffusers(config)
    tensors = {f"model.diffusion_model.{renamed[key]}": value for key, value in unet.state_dict().items()}
    for key, value in convert_vae_state_dict(vae.state_dict()).items():
        tensors[f"first_stage_model.{key}"] = value
    for key, value in text.state_dict().items():
        name = key if key.startswith("text_model.") else f"text_model.{key}"
        if not name.endswith("position_ids"):
            tensors[f"cond_stage_model.transformer.{name}"] = value
    tensors = {key: value.half().contiguous() for key, value in tensors.items()}
    tensors["shapeworld.clip_ids"] = Vocabulary(host / "comfy" / "sd1_tokenizer").clip_ids
    described = {"unet": config, "vae": vae_config(vae), "text": text_config()}
    return tensors, {"shapeworld": json.dumps(described)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the trainer's folder")
    parser.add_argument("--host", type=Path, required=True, help="a ComfyUI folder (key maps and tokenizer)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "nodes" / "shapeworld.safetensors")
    args = parser.parse_args()
    tensors, metadata = checkpoint(args.work, args.host)
    save_file(tensors, args.out, metadata)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
