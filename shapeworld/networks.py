"""The three networks of shapeworld (diffusers / transformers classes) and their export to the SD1 checkpoint layout.

Sizes are the smallest that learn the scenes on two CPU cores; the kinds are those of Stable Diffusion 1.5: a CLIP text
transformer, an 8x KL autoencoder with 4 latent channels, a cross-attention UNet predicting epsilon.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..tools.torchvision_ops import define_missing_operators

define_missing_operators()  # before diffusers and transformers, which import torchvision

from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402

from .scenes import BACKGROUNDS, COLOURS, SHAPES  # noqa: E402

SCALING = 0.18215  # the host's SD1 latent format multiplies by this
LATENT_SIDE = 16
MAX_TOKENS = 77
WORDS = ("a", "and", "on", "background", ",", *SHAPES, *COLOURS, *BACKGROUNDS)
UNET_CHANNELS = (64, 128, 192)
TEXT_WIDTH, TEXT_LAYERS, HEADS = 128, 2, 4


class Vocabulary:
    """CLIP token ids <-> rows of a small embedding. Row 0 stands for every token that the scenes never use."""

    def __init__(self, tokenizer_folder: Path) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
        specials = [self.tokenizer.bos_token_id, self.tokenizer.eos_token_id]
        words = [self.tokenizer(word).input_ids[1:-1] for word in WORDS]
        if any(len(ids) != 1 for ids in words):
            raise ValueError("every shapeworld word must be one CLIP token")
        self.clip_ids = torch.tensor(specials + [ids[0] for ids in words])
        self._row = {int(token): row for row, token in enumerate(self.clip_ids, start=1)}

    def __len__(self) -> int:
        return len(self._row) + 1

    def encode(self, captions: list[str]) -> torch.Tensor:
        """-> embedding rows, int64 (n, 77), padded with the end token as Stable Diffusion 1 does."""
        batch = self.tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
        return torch.tensor([[self._row.get(token, 0) for token in ids] for ids in batch])


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=128,
        scaling_factor=SCALING,
    )


def build_text_encoder(rows: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=rows,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=MAX_TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return CLIPTextModel(config)


def build_unet(in_channels: int = 4) -> UNet2DConditionModel:
    levels = len(UNET_CHANNELS)
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=in_channels,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=UNET_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=HEADS,  # the number of heads, in spite of the name
    )


@torch.no_grad()
def widened(unet: UNet2DConditionModel, in_channels: int) -> UNet2DConditionModel:
    """The same network with more input channels, to which it pays no attention yet."""
    wide = build_unet(in_channels)
    state = unet.state_dict()
    weight = torch.zeros_like(wide.conv_in.weight)
    weight[:, : unet.config.in_channels] = state["conv_in.weight"]
    wide.load_state_dict({**state, "conv_in.weight": weight})
    return wide


@torch.no_grad()
def whiten_latents(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Give the latents zero mean and unit covariance after scaling, by changing the two 1x1 convolutions exactly.

    ``images``: (n, 3, h, w) in [-1, 1]. A white latent space is easier to diffuse, and lets the stock SD1 latent
    format (multiply by 0.18215) be right for this autoencoder.
    """
    means = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)])
    flat = means.permute(1, 0, 2, 3).flatten(1).double()
    mean = flat.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    # ZCA keeps the axes close to the learned ones
    forward = vectors @ torch.diag(values.rsqrt()) @ vectors.T / SCALING
    backward = torch.linalg.inv(forward)

    quant, post = vae.quant_conv, vae.post_quant_conv
    weight, bias = quant.weight.double()[:, :, 0, 0], quant.bias.double()
    new_weight, new_bias = weight.clone(), bias.clone()
    new_weight[:4], new_bias[:4] = forward @ weight[:4], forward @ (bias[:4] - mean)
    # the posterior's variance is transformed channel by channel only: nothing samples it
    new_bias[4:] = bias[4:] + 2 * forward.diagonal().abs().log()
    quant.weight.copy_(new_weight[:, :, None, None])
    quant.bias.copy_(new_bias)
    weight, bias = post.weight.double()[:, :, 0, 0], post.bias.double()
    post.weight.copy_((weight @ backward)[:, :, None, None])
    post.bias.copy_(bias + weight @ mean)
