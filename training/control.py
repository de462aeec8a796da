"""What the trainers of ControlNets have in common: the network from its base, its pass through the UNet, its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ..guidance.errors import LimelightError
from ..models import inpaint_layouts as layouts
from ..models.controlnet_files import PREFIX
from . import export
from .base import Base

# isort: split
# after .base, which makes torchvision importable
from diffusers import ControlNetModel

OPTION = "--controlnet_model_name_or_path"
HOST_HEADS = 64  # channels of a head that ComfyUI assumes in a ControlNet of no published size


def build(base: Base, start: Path | None = None, seed: int = 0, head_channels: int | None = None) -> ControlNetModel:
    """A ControlNet for the base: a copy of its encoder, with last layers of zeros; or the weights in ``start``, a
    diffusers folder or a safetensors file in either layout.

    seed: of the layers that the base lacks. head_channels: of each attention head, where they are not to be the base's.
    Raises LimelightError for a start that does not fit the base.
    """
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


def predict(
    base: Base, network: nn.Module, noisy: torch.Tensor, t: torch.Tensor, told: dict[str, Any], hint: torch.Tensor
) -> torch.Tensor:
    """The UNet's output under the ControlNet. noisy (B, C, h, w), t (B,), told: `Base.conditioning`, hint (B, 3, H, W)
    in [0, 1]. Only the network's pass and the UNet's decoder leave a graph."""
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


def cast(told: Any, kind: torch.dtype) -> Any:
    """Every tensor in nested dictionaries in that type."""
    return {key: cast(value, kind) for key, value in told.items()} if isinstance(told, dict) else told.to(kind)


def write(folder: Path, name: str, network: ControlNetModel, about: dict[str, str]) -> list[Path]:
    """Both layouts: NAME.safetensors in that of the original code, bare, for ComfyUI; the folder NAME for diffusers."""
    original = layouts.to_original(network.state_dict(), name)
    return [
        export.write(folder / f"{name}.safetensors", original, about),
        export.write_diffusers(folder / name, network, about),
    ]
