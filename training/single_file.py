"""A base model from one safetensors file in the original layout: Stable Diffusion 1, 2 or XL.

Sizes are read off the tensors. What a file cannot say is what its kind always has: heads, activations, the scale of the
autoencoder, the noise schedule. All kinds use CLIP's vocabulary; the open CLIPs of SD2 and SDXL pad with "!" (0).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ..guidance.errors import LimelightError
from ..models.unet_names import unet_names
from . import noise
from .base import OPTION, SD1, SD2, SDXL, Base

# isort: split
# after .base, which makes torchvision importable
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

State = dict[str, torch.Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP = {SD1: "cond_stage_model.transformer.", SDXL: "conditioner.embedders.0.transformer."}
OPEN_CLIP = {SD2: "cond_stage_model.model.", SDXL: "conditioner.embedders.1.model."}
VOCABULARY = "openai/clip-vit-large-patch14"
HEAD = 64  # channels of an attention head, but in SD1's UNet, which has 8 heads everywhere
V_SPREAD = 0.09  # of the last output block's first norm: models that predict v have more, the host's rule for SD2
_VAE_NAMES = [
    (r"(encoder|decoder)\.mid\.block_1\.", r"\1.mid_block.resnets.0."),
    (r"(encoder|decoder)\.mid\.block_2\.", r"\1.mid_block.resnets.1."),
    (r"(encoder|decoder)\.mid\.attn_1\.norm\.", r"\1.mid_block.attentions.0.group_norm."),
    (r"(encoder|decoder)\.mid\.attn_1\.([qkv])\.", r"\1.mid_block.attentions.0.to_\2."),
    (r"(encoder|decoder)\.mid\.attn_1\.proj_out\.", r"\1.mid_block.attentions.0.to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets."),
    (r"encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"decoder\.up\.(\d+)\.block\.", r"decoder.up_blocks.\1.resnets."),
    (r"decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
]
_OPEN_CLIP_NAMES = [
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "embeddings.token_embedding."),
]


def load_single_file(path: Path, prediction: str | None, tokenizer: str | None) -> Base:
    """See `base.load`."""
    if path.suffix not in (".safetensors", ".sft"):
        raise LimelightError(f"{OPTION}: found {path.name}; expected a .safetensors file. Convert it first.")
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    kind = next((k for k in (SDXL, SD2) if f"{OPEN_CLIP[k]}positional_embedding" in state), SD1)
    parts = {UNET: "UNet", VAE: "VAE"} | {one[kind]: "text encoder" for one in (CLIP, OPEN_CLIP) if kind in one}
    missing = [what for prefix, what in parts.items() if not any(key.startswith(prefix) for key in state)]
    if missing:
        raise LimelightError(
            f"{OPTION}: {path.name} has no {' and no '.join(missing)}. Expected a whole checkpoint of Stable Diffusion "
            "1, 2 or XL, as Load Checkpoint of ComfyUI takes it."
        )
    try:
        unet, vae = _unet(_under(state, UNET), kind), _vae(_under(state, VAE), kind)
        text: list[nn.Module] = []
        if kind in CLIP:
            text.append(_clip(_under(state, CLIP[kind])))
        if kind in OPEN_CLIP:
            text.append(_open_clip(_under(state, OPEN_CLIP[kind]), kind))
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:300]
        raise LimelightError(f"{OPTION}: {path.name} is not a Stable Diffusion of a known kind ({reason}).") from error
    schedule = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    found = prediction or (noise.V if _predicts_v(state, kind) else noise.EPSILON)
    tokenizers = tuple(_tokenizer(tokenizer, "!" if kind == SD2 or i else None) for i in range(len(text)))
    return Base(kind, unet, vae, tuple(text), tokenizers, schedule.alphas_cumprod, found, path.name)


def _under(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _filled(network: nn.Module, state: State) -> nn.Module:
    """The network with these weights; those that it does not know are an error, but for numbers of positions."""
    network.load_state_dict({key: value for key, value in state.items() if not key.endswith("position_ids")})
    return network


def _unet(state: State, kind: str) -> UNet2DConditionModel:
    def depth(place: str) -> int:
        return len({key.split(".")[4] for key in state if key.startswith(f"{place}.1.transformer_blocks.")})

    def numbered(side: str) -> range:
        return range(1 + max(int(key.split(".")[1]) for key in state if key.startswith(f"{side}.")))

    levels: list[list[int]] = [[]]  # transformer blocks of each layer
    widths = [0]
    for i in numbered("input_blocks")[1:]:
        if f"input_blocks.{i}.0.op.weight" in state:
            levels.append([])
            widths.append(0)
        else:
            levels[-1].append(depth(f"input_blocks.{i}"))
            widths[-1] = state[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0]
    middle = len({key.split(".")[3] for key in state if key.startswith("middle_block.1.transformer_blocks.")})
    structure = {
        "num_res_blocks": [len(level) for level in levels],
        "transformer_depth": [one for level in levels for one in level],
        "transformer_depth_output": [depth(f"output_blocks.{i}") for i in numbered("output_blocks")][::-1],
        "transformer_depth_middle": middle,
    }
    config: dict[str, Any] = {
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "out_channels": state["out.2.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": structure["num_res_blocks"],
        "down_block_types": ["CrossAttnDownBlock2D" if max(level) else "DownBlock2D" for level in levels],
        "up_block_types": ["CrossAttnUpBlock2D" if max(level) else "UpBlock2D" for level in levels[::-1]],
        "transformer_layers_per_block": [max(max(level), 1) for level in levels[:-1]] + [max(levels[-1] + [middle])],
        "cross_attention_dim": state["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "use_linear_projection": state["middle_block.1.proj_in.weight"].ndim == 2,
        "attention_head_dim": 8 if kind == SD1 else [width // HEAD for width in widths],  # the number of heads
        "upcast_attention": kind == SD2,
    }
    if kind == SDXL:
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        config["projection_class_embeddings_input_dim"] = state["label_emb.0.0.weight"].shape[1]
    names = {original: name for name, original in unet_names(structure).items()}
    return _filled(UNet2DConditionModel(**config), {names.get(key, key): value for key, value in state.items()})


def _vae(state: State, kind: str) -> AutoencoderKL:
    pattern = re.compile(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight")
    found = {(int(m[1]), int(m[2])): state[m[0]].shape[0] for m in map(pattern.fullmatch, state) if m}
    levels, layers = (1 + max(place[i] for place in found) for i in (0, 1))
    network = AutoencoderKL(
        block_out_channels=[found[level, 0] for level in range(levels)],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=layers,
        latent_channels=state["post_quant_conv.weight"].shape[1],
        scaling_factor=0.13025 if kind == SDXL else 0.18215,
    )
    # the original decoder counts its levels from the picture
    upside = {f"decoder.up.{i}.": f"decoder.up.{levels - 1 - i}." for i in range(levels)}
    named = {}
    for key, value in state.items():
        start = next((old for old in upside if key.startswith(old)), None)
        name = _renamed(upside[start] + key.removeprefix(start) if start else key, _VAE_NAMES)
        named[name] = value[:, :, 0, 0] if ".attentions." in name and value.ndim == 4 else value
    wanted = network.state_dict()
    return _filled(network, {key: value for key, value in named.items() if key in wanted or "loss." not in key})


def _clip(state: State) -> CLIPTextModel:
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    config = _text_config(state, hidden_act="quick_gelu")
    return _text(CLIPTextModel(config), state)


def _open_clip(state: State, kind: str) -> nn.Module:
    """SD2 uses the last layer but one, normed; its encoder is therefore built without the last."""
    named: State = {}
    for key, value in state.items():
        name = _renamed(key, _OPEN_CLIP_NAMES)
        if name.endswith(("in_proj_weight", "in_proj_bias")):
            place, _, end = name.rpartition(".in_proj_")
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                named[f"{place}.{part}_proj.{end}"] = rows
        else:
            named[name] = value
    projection = named.pop("text_projection", None)
    named.pop("logit_scale", None)
    if kind == SD2:
        layers = 1 + max(int(key.split(".")[2]) for key in named if key.startswith("encoder.layers."))
        named = {key: value for key, value in named.items() if not key.startswith(f"encoder.layers.{layers - 1}.")}
        return _text(CLIPTextModel(_text_config(named, hidden_act="gelu")), named)
    config = _text_config(named, hidden_act="gelu", projection_dim=projection.shape[1])
    network = CLIPTextModelWithProjection(config)
    return _text(network, named, {"text_projection.weight": projection.T.contiguous()})


def _text_config(state: State, **more: Any) -> CLIPTextConfig:
    rows, width = state["embeddings.token_embedding.weight"].shape
    return CLIPTextConfig(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.layers.")),
        num_attention_heads=max(1, width // HEAD),
        max_position_embeddings=state["embeddings.position_embedding.weight"].shape[0],
        bos_token_id=rows - 2,
        eos_token_id=rows - 1,
        **more,
    )


def _text(network: nn.Module, state: State, more: State | None = None) -> nn.Module:
    """Older transformers have text_model. before each name, newer ones only where there is a projection."""
    inner = any(key.startswith("text_model.") for key in network.state_dict())
    return _filled(
        network, {f"text_model.{key}" if inner else key: value for key, value in state.items()} | (more or {})
    )


def _renamed(key: str, rules: list[tuple[str, str]]) -> str:
    for pattern, name in rules:
        key = re.sub(pattern, name, key)
    return key


def _predicts_v(state: State, kind: str) -> bool:
    if "v_pred" in state:
        return True
    norms = [key for key in state if re.search(r"output_blocks\.\d+\.1\.transformer_blocks\.0\.norm1\.bias$", key)]
    last = max(norms, key=lambda key: int(key.split("output_blocks.")[1].split(".")[0]), default=None)
    return kind == SD2 and last is not None and float(state[last].std(unbiased=False)) > V_SPREAD


def _tokenizer(source: str | None, pad: str | None) -> CLIPTokenizer:
    try:
        more = {"pad_token": pad} if pad else {}
        return CLIPTokenizer.from_pretrained(source or VOCABULARY, model_max_length=77, **more)
    except (OSError, ValueError, TypeError) as error:
        raise LimelightError(
            f"--tokenizer: found no tokenizer at {source or VOCABULARY}. A base model in one file has none; give a "
            "folder with CLIP's vocab.json and merges.txt, such as comfy/sd1_tokenizer of ComfyUI."
        ) from error
