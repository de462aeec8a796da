"""The base model of a training: Stable Diffusion 1, 2 or XL from a diffusers folder or one file, frozen.

Nothing here knows how a network is trained on it; see `task.Task`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..guidance.errors import LimelightError
from ..tools.torchvision_ops import define_missing_operators
from . import noise

define_missing_operators()  # before diffusers and transformers, which import torchvision

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: E402
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer  # noqa: E402

OPTION = "--pretrained_model_name_or_path"
SD1, SD2, SDXL = KINDS = "SD1", "SD2", "SDXL"
Tensors = dict[str, torch.Tensor]


@dataclass
class Base:
    """Everything of a text-to-image model but what is trained. All parts are frozen and in eval mode.

    text_encoders, tokenizers: one of each, of SDXL two. alphas_cumprod: (T,), of the noise schedule.
    prediction: one of `noise.PREDICTIONS`. source: where it was read from, for messages and metadata.
    """

    kind: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: tuple[nn.Module, ...]
    tokenizers: tuple[CLIPTokenizer, ...]
    alphas_cumprod: torch.Tensor
    prediction: str
    source: str

    def __post_init__(self) -> None:
        self._schedules: dict[torch.device, torch.Tensor] = {}
        self._sizes: dict[tuple, torch.Tensor] = {}
        for part in (self.unet, self.vae, *self.text_encoders):
            part.requires_grad_(False).eval()

    @property
    def scale(self) -> int:
        """Pixels a latent cell, along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def times(self) -> int:
        """How many times the noise schedule has."""
        return len(self.alphas_cumprod)

    @property
    def layout(self) -> torch.memory_format:
        """How pictures and latents lie in memory while the UNet sees them: on a CPU in the way that is faster there."""
        return torch.channels_last if self.unet.device.type == "cpu" else torch.contiguous_format

    def level(self, t: torch.Tensor) -> noise.Strengths:
        """Times (B,) -> how strong the clean latent and the noise are."""
        if self.prediction == noise.FLOW:
            return noise.flow_strengths(t / self.times)
        return noise.strengths(self._on(t.device), t)

    def _on(self, device: torch.device) -> torch.Tensor:
        """The schedule on a device, copied there once: a copy at each step would make it wait."""
        if device not in self._schedules:
            self._schedules[device] = self.alphas_cumprod.to(device)
        return self._schedules[device]

    def encoders_to(self, device: torch.device | str) -> None:
        """Move what the cache is made with: autoencoder and text encoders."""
        for part in (self.vae, *self.text_encoders):
            part.to(device)

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> Tensors:
        """-> "context" (B, tokens, width) and, of SDXL, "pooled" (B, width of the second encoder)."""
        found = []
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
            rows = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True).input_ids
            ids = torch.tensor(rows, device=encoder.device)
            found.append(encoder(ids, output_hidden_states=self.kind == SDXL))
        if self.kind != SDXL:
            return {"context": found[0].last_hidden_state}
        # the last layer but one of both, and what the second makes of the whole prompt
        context = torch.cat([one.hidden_states[-2] for one in found], -1)
        return {"context": context, "pooled": found[1].text_embeds}

    def conditioning(self, batch: Tensors) -> dict[str, Any]:
        """A batch with "context" (and "pooled") and latents "moments" -> what the UNet and a ControlNet are told of the
        prompt, as their keyword arguments, float32: the cache's type may be another than that of the arithmetic, which
        autocast does not put up with. To SDXL the pictures are of their own size, not cropped."""
        told: dict[str, Any] = {"encoder_hidden_states": batch["context"].float()}
        if self.kind == SDXL:
            height, width = (side * self.scale for side in batch["moments"].shape[-2:])
            known = height, width, batch["context"].device
            if known not in self._sizes:  # as with the schedule
                sizes = torch.tensor([height, width, 0, 0, height, width])
                self._sizes[known] = sizes.float().to(known[2])
            rows = self._sizes[known].expand(len(batch["context"]), -1)
            told["added_cond_kwargs"] = {"text_embeds": batch["pooled"].float(), "time_ids": rows}
        return told

    @torch.no_grad()
    def encode_images(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> (B, 2 C, h, w): mean and logarithm of the variance of the latents, not scaled yet."""
        pixels = torch.as_tensor(images).to(self.vae.device).movedim(-1, 1).to(self.vae.dtype) / 127.5 - 1
        return self.vae.encode(pixels).latent_dist.parameters.float()

    def latents(self, moments: torch.Tensor, normal: torch.Tensor | None) -> torch.Tensor:
        """What `encode_images` gave -> latents as the UNet knows them; drawn with the standard normal numbers (B, C, h,
        w), or where None the means."""
        mean, variance = moments.float().chunk(2, 1)
        drawn = mean if normal is None else mean + torch.exp(variance.clamp(-30, 20) / 2) * normal
        return (drawn - (self.vae.config.shift_factor or 0)) * self.vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents as the UNet knows them -> (B, 3, H, W), mostly in [0, 1]. A gradient goes through."""
        plain = latents.float() / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)
        with torch.autocast(plain.device.type, enabled=False):  # SDXL's overflows in 16 bits
            return self.vae.decode(plain.to(self.vae.dtype)).sample.float() / 2 + 0.5

    def fingerprint(self) -> str:
        """Of what the cache depends on: the encoders' settings and weights, wherever they were read from."""
        digest = blake2b(digest_size=8)
        for part in (self.vae, *self.text_encoders):
            digest.update(type(part).__name__.encode())
            for name, value in sorted(part.state_dict().items()):
                digest.update(f"{name} {tuple(value.shape)} {value.double().sum().item()!r}".encode())
        words = [tokenizer("a photo of a cat").input_ids for tokenizer in self.tokenizers]
        digest.update(json.dumps([words, self.vae.config.scaling_factor, self.vae.config.shift_factor]).encode())
        return digest.hexdigest()


def load(source: str | Path, prediction: str | None = None, tokenizer: str | None = None) -> Base:
    """A base model from a diffusers folder or a single safetensors file. Raises LimelightError.

    prediction: overrides what the folder says, or the guess of a single file. tokenizer: CLIP's, which a single file
    lacks: a folder, or a name on the Hugging Face Hub.
    """
    path = Path(source)
    if path.is_file():
        from .single_file import load_single_file

        base = load_single_file(path, prediction, tokenizer)
    elif (path / "model_index.json").is_file():
        base = _load_folder(path)
    else:
        raise LimelightError(
            f"{OPTION}: found no model at {source}. Expected a folder of diffusers (with model_index.json) or a "
            "checkpoint in one .safetensors file. From the Hugging Face Hub: `hf download NAME --local-dir FOLDER`."
        )
    if prediction is not None:
        base.prediction = prediction
    return base


def _load_folder(path: Path) -> Base:
    two = (path / "text_encoder_2").is_dir()
    names = ("", "_2") if two else ("",)
    classes = (CLIPTextModel, CLIPTextModelWithProjection)
    try:
        unet = UNet2DConditionModel.from_pretrained(path / "unet")
        vae = AutoencoderKL.from_pretrained(path / "vae")
        text = tuple(c.from_pretrained(path / f"text_encoder{n}") for c, n in zip(classes, names, strict=False))
        tokenizers = tuple(CLIPTokenizer.from_pretrained(path / f"tokenizer{n}") for n in names)
        scheduler = json.loads((path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0][:300]
        raise LimelightError(
            f"{OPTION}: the folder {path} is not a whole Stable Diffusion model ({reason}). Expected unet, vae, "
            "text_encoder, tokenizer and scheduler. Download it again."
        ) from error
    kind = SDXL if two else SD2 if unet.config.use_linear_projection else SD1
    if kind == SDXL and unet.config.addition_embed_type != "text_time":
        raise LimelightError(f"{OPTION}: {path} has two text encoders, but its UNet is not that of SDXL.")
    width = sum(one.config.hidden_size for one in text)
    if unet.config.cross_attention_dim != width:
        raise LimelightError(
            f"{OPTION}: the UNet in {path} takes prompts of width {unet.config.cross_attention_dim}, but its text "
            f"encoders make {width}. The folder's parts are of different models."
        )
    flow = "FlowMatch" in scheduler.get("_class_name", "")
    schedule = DDIMScheduler() if flow else DDIMScheduler.from_config(scheduler)
    prediction = noise.FLOW if flow else schedule.config.prediction_type
    if prediction not in noise.PREDICTIONS:
        raise LimelightError(f"{OPTION}: {path} predicts {prediction!r}; expected one of {noise.PREDICTIONS}.")
    return Base(kind, unet, vae, text, tokenizers, schedule.alphas_cumprod, prediction, path.name)
