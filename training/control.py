"""What the trainers of ControlNets have in common: the network from its base, its pass through the UNet, its loss, its
files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ..guidance.errors import LimelightError
from ..models import inpaint_layouts as layouts
from ..models.controlnet_files import PREFIX
from . import base as bases
from . import export, noise, preview
from .base import Base
from .draws import Draws
from .prepare import positive
from .task import Batch

# isort: split
# after .base, which makes torchvision importable
from diffusers import ControlNetModel

Sampler = Callable[[torch.Tensor, int], torch.Tensor]
"""Such as `noise.uniform_times`."""
OPTION = "--controlnet_model_name_or_path"
HOST_HEADS = 64  # channels of a head that ComfyUI assumes in a ControlNet of no published size
LATENT, INPAINTING = 4, 9  # channels of the UNet's input
BASES = {  # what else there is, by channels
    LATENT: "Choose the text-to-image model that it was made from, or train_salient_inpaint_controlnet.",
    INPAINTING: "Choose an inpainting model, such as sd2-community/stable-diffusion-2-inpainting or the inpainting one "
    "of your model's family, or train_salient_controlnet.",
}


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options that trainers of ControlNets share."""
    add = made.add_argument_group("ControlNet").add_argument
    add("--controlnet_model_name_or_path", type=Path, metavar="PATH", help="weights to start from (default: base)")
    add("--head_channels", type=int, metavar="N", help="of an attention head; ComfyUI takes 64 in nets of unknown size")
    add("--random_flip", action=argparse.BooleanOptionalAction, default=True, help="every sample also mirrored")
    add("--validation_scale", type=float, default=preview.SCALE, metavar="X", help="guidance (default %(default)s)")
    add("--validation_inference_steps", type=positive, default=preview.STEPS, metavar="N", help="(default %(default)s)")


def build(
    base: Base, start: Path | None = None, seed: int = 0, head_channels: int | None = None, channels: int = LATENT
) -> ControlNetModel:
    """A ControlNet for the base: a copy of its encoder, with last layers of zeros; or the weights in ``start``, a
    diffusers folder or a safetensors file in either layout.

    seed: of the layers that the base lacks. head_channels: of each attention head, where they are not to be the base's.
    channels: that the base's UNet and the ControlNet take. Raises LimelightError for a base with others, and for a
    start that does not fit the base.
    """
    if (found := base.unet.config.in_channels) != channels:
        kind = "an inpainting model" if found == INPAINTING else "no inpainting model"
        parts = ": noisy latent 4, mask 1, masked latent 4" if channels == INPAINTING else ""
        raise LimelightError(
            f"{bases.OPTION}: {base.source} is {kind}: its UNet has {found} input channels; expected {channels}{parts}."
            f" {BASES[channels]}"
        )
    heads = base.unet.config.attention_head_dim, base.unet.config.num_attention_heads
    if head_channels is not None:
        widths = base.unet.config.block_out_channels
        if any(width % head_channels for width in widths):
            raise LimelightError(f"--head_channels: found {head_channels}; expected a divisor of {list(widths)}.")
        counts = [width // head_channels for width in widths]
        base.unet.register_to_config(attention_head_dim=counts, num_attention_heads=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ControlNetModel.from_unet(base.unet)
    base.unet.register_to_config(attention_head_dim=heads[0], num_attention_heads=heads[1])
    if start is not None:
        network.load_state_dict(_read(Path(start), network))
    return network.requires_grad_(True)


def _read(path: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    file = path / "diffusion_pytorch_model.safetensors" if path.is_dir() else path
    if not file.is_file() or file.suffix != ".safetensors":
        raise LimelightError(f"{OPTION}: found no weights at {path}; expected a diffusers folder or a .safetensors.")
    state = {key.removeprefix(PREFIX): value.float() for key, value in load_file(file).items()}
    wanted = network.state_dict()
    if layouts.CONTROLNET["original"] in state:
        names = {original: name for name, original in layouts.original_names(wanted, file.name).items()}
        state = {names.get(key, key): value for key, value in state.items()}
    wrong = sorted({*wanted} ^ {*state}) or sorted(key for key in wanted if wanted[key].shape != state[key].shape)
    if wrong:
        raise LimelightError(
            f"{OPTION}: {path.name} is not a ControlNet for this base model: {len(wrong)} of its tensors do not fit, "
            f"the first {wrong[0]}. Choose one that was trained for the same kind of Stable Diffusion."
        )
    return state


@dataclass(frozen=True)
class Noised:
    """Clean latents with noise of drawn times. times: (B,) on the CPU, t: the same on the device. target: what the UNet
    has to say."""

    clean: torch.Tensor
    noisy: torch.Tensor
    target: torch.Tensor
    times: torch.Tensor
    t: torch.Tensor
    level: noise.Strengths


def clean_latents(base: Base, moments: torch.Tensor, draws: Draws) -> torch.Tensor:
    """What `Base.encode_images` gave, (B, 2 C, h, w) -> latents that are drawn from it."""
    return base.latents(moments, draws.normal(moments.shape[1] // 2, *moments.shape[2:]))


def noised(base: Base, clean: torch.Tensor, draws: Draws, sampler: Sampler = noise.uniform_times) -> Noised:
    """Draws noise, then a time, for each latent."""
    added = draws.normal(*clean.shape[1:])
    times = sampler(draws.uniform(), base.times)
    t = draws.to_device(times)
    level = base.level(t)
    noisy = noise.add_noise(clean, added, level)
    return Noised(clean, noisy, noise.target(clean, added, level, base.prediction), times, t, level)


def errors(
    base: Base, given: Noised, output: torch.Tensor, gamma: float | None, weights: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """|| target - output ||^2, the mean over each latent, (B,). weights: of its cells, to be broadcast; gamma: of
    min-SNR weights, None for none."""
    losses = ((output.float() - given.target).square() * weights).mean((1, 2, 3))
    return losses if gamma is None else losses * noise.min_snr_weights(given.level, gamma, base.prediction)


def predict(
    base: Base,
    network: nn.Module,
    noisy: torch.Tensor,
    t: torch.Tensor,
    told: dict[str, Any],
    hint: torch.Tensor,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """The UNet's output under the ControlNet. noisy (B, C, h, w), t (B,), told: `Base.conditioning`, hint (B, 3, H, W),
    beside: what inpainting networks see after the noisy latent, (B, 5, h, w). Only the network's pass and the UNet's
    decoder leave a graph."""
    noisy = noisy if beside is None else torch.cat([noisy, beside], 1)
    noisy, hint = (one.contiguous(memory_format=base.layout) for one in (noisy, hint))
    down, middle = network(noisy, t, controlnet_cond=hint, return_dict=False, **told)
    kind = base.unet.dtype
    return base.unet(
        noisy.to(kind),
        t,
        down_block_additional_residuals=[one.to(kind) for one in down],
        mid_block_additional_residual=middle.to(kind),
        return_dict=False,
        **cast(told, kind),
    )[0]


def sample(
    base: Base,
    network: nn.Module,
    batch: Batch,
    empty: Batch,
    draws: Draws,
    hint: torch.Tensor,
    options: argparse.Namespace,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """Clean latents that are made under the ControlNet. batch, empty: as `Task.validate` gets them."""
    steps, scale = options.validation_inference_steps, options.validation_scale
    channels, height, width = batch["moments"].shape[1:]

    def output(z: torch.Tensor, t: torch.Tensor, text: Batch) -> torch.Tensor:
        return predict(base, network, z, t, base.conditioning({**batch, **text}), hint, beside)

    return preview.sample(base, draws.normal(channels // 2, height, width), {}, empty, output, steps, scale)


def cast(told: Any, kind: torch.dtype) -> Any:
    """Every tensor in nested dictionaries in that type."""
    return {key: cast(value, kind) for key, value in told.items()} if isinstance(told, dict) else told.to(kind)


def described(base: Base, options: argparse.Namespace, kind: str, hint: str, **more: Any) -> dict[str, str]:
    """Metadata of a trained ControlNet. hint: what its channels mean."""
    return export.metadata(
        kind=kind,
        base=base.kind,
        base_model=base.source,
        prediction=base.prediction,
        hint=hint,
        preset=options.preset,
        resolution="x".join(map(str, options.resolution)),
        **more,
    )


def write(folder: Path, name: str, network: ControlNetModel, about: dict[str, str]) -> list[Path]:
    """Both layouts: NAME.safetensors in that of the original code, bare, for ComfyUI; the folder NAME for diffusers."""
    original = layouts.to_original(network.state_dict(), name)
    return [
        export.write(folder / f"{name}.safetensors", original, about),
        export.write_diffusers(folder / name, network, about),
    ]
