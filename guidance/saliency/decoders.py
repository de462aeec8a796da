"""From a model's prediction to a picture that a saliency predictor can look at, differentiable: three ways, by cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import LimelightError

PREVIEW, TINY, VAE = "preview colours", "TAESD", "VAE"
MOST_CELLS = 48  # of the longer side of a latent that a network decodes: predictors see no more, and memory is bounded


@dataclass(frozen=True)
class Decoder:
    """`decode`: (B, C, h, w) of the model's latent space, float32 -> (B, 3, H, W), mostly in [0, 1], differentiable.

    patcher: the host's, around a network that it has to load before. network: one with the host's weights, which
    autograd cannot save (see `guidance.attention.autograd`).
    """

    label: str
    decode: Callable[[torch.Tensor], torch.Tensor]
    patcher: Any = None
    network: nn.Module | None = None


def preview(latent_format: Any) -> Decoder:
    """The linear map from latent channels to colours that the host's fast previews use; one pixel a latent cell.

    Raises LimelightError for a latent space that the host has no such map for.
    """
    factors = getattr(latent_format, "latent_rgb_factors", None)
    if factors is None:
        raise LimelightError(
            f"decoder: the host has no preview colours for this model's latents ({type(latent_format).__name__}). "
            "Connect the model's VAE and set decoder to 'VAE'."
        )
    with torch.inference_mode(False):  # constants that autograd may save
        factors = torch.tensor(factors, dtype=torch.float32)
        bias = torch.tensor(getattr(latent_format, "latent_rgb_factors_bias", None) or [0.0, 0.0, 0.0])
    reshape = getattr(latent_format, "latent_rgb_factors_reshape", None)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        latents = latents if reshape is None else reshape(latents)
        colours = torch.einsum("bchw,cr->brhw", latents, factors.to(latents))
        return (colours + bias.to(latents)[:, None, None] + 1) / 2

    return Decoder(PREVIEW, decode)


def tiny(path: Path, latent_format: Any) -> Decoder:
    """TAESD, the small autoencoder of the host's better previews. path: of its decoder, from models/vae_approx."""
    from comfy.taesd.taesd import TAESD

    try:
        with torch.inference_mode(False):  # weights that autograd may save
            network = TAESD(None, str(path), latent_channels=latent_format.latent_channels)
    except (RuntimeError, ValueError, OSError, EOFError, KeyError, UnpicklingError) as error:
        raise LimelightError(
            f"decoder: {path.name} cannot be read as a TAESD decoder for latents of {latent_format.latent_channels} "
            "channels. Download it again, or use another decoder."
        ) from error
    network = network.requires_grad_(False).train(False)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return (network.to(latents).decode(reduced(latents)) + 1) / 2

    return Decoder(TINY, decode)


def full(vae: Any, latent_format: Any) -> Decoder:
    """The connected VAE's own decoder. Raises LimelightError for one of another latent space."""
    channels = getattr(vae, "latent_channels", None)
    if channels != latent_format.latent_channels or getattr(vae, "first_stage_model", None) is None:
        raise LimelightError(
            f"vae: found one for latents of {channels} channels, but the model's have "
            f"{latent_format.latent_channels}. Connect the VAE of the same model."
        )
    video = latent_format.latent_dimensions == 3  # an image is a video of one frame there
    middle = float(vae.process_output(torch.zeros(1)))  # what 0 of the decoder is in a picture: 0.5, of some VAEs 0

    def decode(latents: torch.Tensor) -> torch.Tensor:
        latents = reduced(latents)
        latents = latent_format.process_out(latents[:, :, None] if video else latents)
        pictures = vae.first_stage_model.decode(latents.to(vae.patcher.load_device, vae.vae_dtype)).to(latents)
        return (pictures[:, :, 0] if video else pictures) * (1 - middle) + middle

    return Decoder(VAE, decode, vae.patcher, vae.first_stage_model)


def reduced(latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) with at most `MOST_CELLS` on a side."""
    height, width = latents.shape[-2:]
    shrink = MOST_CELLS / max(height, width)
    if shrink >= 1:
        return latents
    size = [max(1, round(side * shrink)) for side in (height, width)]
    return F.interpolate(latents, size, mode="bilinear", antialias=True)
