"""Write the trained networks as one safetensors file in the layout of an SD1 checkpoint, or read them back from it.

    python -m limelight.shapeworld.export --work DIR --host HOST
    python -m limelight.shapeworld.export --work DIR --host HOST --restore    # to train on from the committed file
    python -m limelight.shapeworld.export --work DIR --host HOST --inpaint    # what the inpainting UNet has of its own
    python -m limelight.shapeworld.export --work DIR --host HOST --transformer    # the transformer, by itself
    python -m limelight.shapeworld.export --diffusers DIR --host HOST         # the committed file as a diffusers folder

Only the embedding rows of the words that the scenes use are stored; the loader spreads them over CLIP's 49,408.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .networks import (
    HEADS,
    MAX_TOKENS,
    TEXT_LAYERS,
    TEXT_WIDTH,
    UNET_CHANNELS,
    Vocabulary,
    build_text_encoder,
    build_unet,
    build_vae,
)

# isort: split
# after .networks, which makes torchvision importable
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

EMBEDDING = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


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
    unet = UNet2DConditionModel.from_pretrained(work / "unet")
    vae = AutoencoderKL.from_pretrained(work / "vae")
    text = CLIPTextModel.from_pretrained(work / "text_encoder")
    tensors = {}
    for network, names in zip((unet, vae, text), names_in_file(unet, vae, text, host), strict=True):
        state = network.state_dict()
        for key, name in names.items():
            value = state[key].half()
            # the SD1 layout keeps the autoencoder's attention as 1x1 convolutions
            as_convolution = name.startswith("first_stage_model.") and ".attn_1." in name and value.ndim == 2
            tensors[name] = (value[:, :, None, None] if as_convolution else value).contiguous()
    tensors["shapeworld.clip_ids"] = Vocabulary(host / "comfy" / "sd1_tokenizer").clip_ids
    described = {"unet": unet_config(unet.config.in_channels), "vae": vae_config(vae), "text": text_config()}
    return tensors, {"shapeworld": json.dumps(described)}


def names_in_file(unet, vae, text, host: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """For each network: its own keys -> those of the file, by the host's own tables."""
    of_unet = unet_names(unet, host)
    from comfy.diffusers_convert import convert_vae_state_dict

    vae_state = vae.state_dict()
    of_vae = dict(zip(vae_state, convert_vae_state_dict(vae_state), strict=True))  # it keeps the order
    of_text = {
        key: key if key.startswith("text_model.") else f"text_model.{key}"
        for key in text.state_dict()
        if not key.endswith("position_ids")
    }
    return (
        of_unet,
        {key: f"first_stage_model.{name}" for key, name in of_vae.items()},
        {key: f"cond_stage_model.transformer.{name}" for key, name in of_text.items()},
    )


def unet_names(unet: UNet2DConditionModel, host: Path) -> dict[str, str]:
    if str(host) not in sys.path:
        sys.path.insert(0, str(host))
    from comfy.utils import unet_to_diffusers

    table = unet_to_diffusers(unet_config(unet.config.in_channels))
    return {key: f"model.diffusion_model.{table[key]}" for key in unet.state_dict()}


def inpainting(work: Path, host: Path, base: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """-> the tensors of the inpainting UNet that differ from those of the exported file ``base``, and metadata."""
    unet, stored = UNet2DConditionModel.from_pretrained(work / "unet_inpaint"), load_file(base)
    state, tensors = unet.state_dict(), {}
    for key, name in unet_names(unet, host).items():
        value = state[key].half().contiguous()
        if value.shape != stored[name].shape or not torch.equal(value, stored[name]):
            tensors[name] = value
    return tensors, {"shapeworld": json.dumps({"unet": unet_config(unet.config.in_channels)})}


def transformer(work: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """-> the tensors of the trained transformer, which is the host's own class, and metadata."""
    from .transformer import CONFIG, SHIFT

    state = load_file(work / "transformer.safetensors")
    tensors = {f"model.diffusion_model.{key}": value.half() for key, value in state.items()}
    return tensors, {"shapeworld": json.dumps({"transformer": CONFIG, "sampling": {"multiplier": 1.0, "shift": SHIFT}})}


def restore(path: Path, work: Path, host: Path) -> None:
    """Write the networks of an exported file as the trainer's folders, from which its next stages start."""
    tensors = load_file(path)
    rows = len(tensors["shapeworld.clip_ids"]) + 1
    networks = {"unet": build_unet(), "vae": build_vae(), "text_encoder": build_text_encoder(rows)}
    fill(tuple(networks.values()), tensors, host)
    for folder, network in networks.items():
        network.save_pretrained(work / folder)


def write_diffusers(path: Path, folder: Path, host: Path, inpaint: Path | None = None) -> None:
    """An exported file -> a complete folder of diffusers, with which its pipelines and our trainers work as with any
    other base model. inpaint: the file of what the inpainting UNet has of its own; the folder then holds that UNet.
    """
    tensors = load_file(path)
    if inpaint is not None:
        tensors |= load_file(inpaint)
    tokenizer = CLIPTokenizer.from_pretrained(str(host / "comfy" / "sd1_tokenizer"), model_max_length=MAX_TOKENS)
    ids, stored = tensors["shapeworld.clip_ids"], tensors[EMBEDDING]
    rows = stored[:1].repeat(len(tokenizer), 1)  # row 0 stands for every word that shapeworld never saw
    rows[ids] = stored[1:]
    tensors[EMBEDDING] = rows
    unet, vae, text = build_unet(4 if inpaint is None else 9), build_vae(), build_text_encoder(len(tokenizer))
    text.config.update(
        {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": ids[1].item()}
    )
    fill((unet, vae, text), tensors, host)
    with torch.no_grad():  # the UNet knows latents' means; trainers draw from their variance, which is not true here
        vae.quant_conv.weight[4:], vae.quant_conv.bias[4:] = 0, -30
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def fill(networks: tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel], tensors: dict, host: Path) -> None:
    """Give (UNet, autoencoder, text encoder) the weights of an exported file."""
    for network, names in zip(networks, names_in_file(*networks, host), strict=True):
        state = network.state_dict()
        state.update({key: tensors[name].float().reshape(state[key].shape) for key, name in names.items()})
        network.load_state_dict(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="the trainer's folder")
    parser.add_argument("--diffusers", type=Path, metavar="DIR", help="write --out as a diffusers folder")
    parser.add_argument("--host", type=Path, required=True, help="a ComfyUI folder (key maps and tokenizer)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "nodes" / "shapeworld.safetensors")
    parser.add_argument("--restore", action="store_true", help="read --out into --work instead of writing it")
    parser.add_argument("--inpaint", action="store_true", help="write the inpainting UNet, beside --out")
    parser.add_argument("--transformer", action="store_true", help="write the transformer, beside --out")
    args = parser.parse_args()
    if args.diffusers:
        own = args.out.with_stem(f"{args.out.stem}_inpaint") if args.inpaint else None
        write_diffusers(args.out, args.diffusers, args.host, own)
        return
    if args.work is None:
        parser.error("--work is needed")
    if args.restore:
        restore(args.out, args.work, args.host)
        return
    if args.inpaint:
        tensors, metadata = inpainting(args.work, args.host, args.out)
        args.out = args.out.with_stem(f"{args.out.stem}_inpaint")
    elif args.transformer:
        tensors, metadata = transformer(args.work)
        args.out = args.out.with_stem(f"{args.out.stem}_transformer")
    else:
        tensors, metadata = checkpoint(args.work, args.host)
    save_file(tensors, args.out, metadata)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
