"""T2I-Adapters in training: the network for a base, its features in a region and in the UNet, its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..guidance.errors import LimelightError
from ..guidance.local.coverage import cells, coverage, surroundings
from ..models import adapter_files, files
from ..models.adapter import Adapter, Form
from . import base as bases
from . import control, export
from .base import SDXL, Base

OPTION = "--adapter_model_name_or_path"
FULL, LIGHT = KINDS = "full", "light"
AREA, NEAREST = "area", "nearest"
BLOCKS = {FULL: 2, LIGHT: 4}  # residual blocks of a level, as in the published ones


def form_for(base: Base, kind: str = FULL, hint_channels: int = 1) -> Form:
    """The published form for a base, in the base's own widths. Raises LimelightError where there is none."""
    if (found := base.unet.config.in_channels) != control.LATENT:
        raise LimelightError(
            f"{bases.OPTION}: the UNet of {base.source} has {found} input channels; expected {control.LATENT}. Choose "
            "the text-to-image model that it was made from."
        )
    widths = tuple(base.unet.config.block_out_channels)
    if base.kind == SDXL:
        if kind == LIGHT:
            raise LimelightError("--adapter_type: there are no light adapters for SDXL. Choose 'full'.")
        # the last one comes after the middle block
        return Form(False, (*widths, widths[-1]), hint_channels, 2 * base.scale, BLOCKS[kind])
    return Form(kind == LIGHT, widths, hint_channels, base.scale, BLOCKS[kind])


def build(base: Base, form: Form, start: Path | None = None, seed: int = 0) -> Adapter:
    """A new adapter, or the one in ``start``: a file of any layout or a diffusers folder. Its parameters are to be
    trained. Raises LimelightError for a start that does not fit the base or the form's hint."""
    if start is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Adapter(form, nn.Conv2d)
    path = start / "diffusion_pytorch_model.safetensors" if start.is_dir() else start
    if not path.is_file():
        raise LimelightError(f"{OPTION}: found no weights at {path}; expected a file or a diffusers folder.")
    kind = adapter_files.KINDS[2 if base.kind == SDXL else 1]
    try:
        network = adapter_files.build(files.mapped(path, adapter_files.INPUT), path.name, kind, nn.Conv2d)
    except LimelightError as error:
        raise LimelightError(str(error).replace(adapter_files.INPUT, OPTION)) from error
    found = network.form
    if (found.channels, found.strides) != (form.channels, form.strides):
        raise LimelightError(
            f"{OPTION}: {path.name} has levels of {_levels(found)}; this base model, {base.source}, takes "
            f"{_levels(form)}. Choose an adapter for {base.kind}."
        )
    if found.hint_channels != form.hint_channels:
        raise LimelightError(
            f"{OPTION}: {path.name} takes hints of {found.hint_channels} channels, not of {form.hint_channels}. Set "
            f"--hint_channels {found.hint_channels}."
        )
    for weight in network.parameters():  # the file's own memory, of the file's type
        weight.data = weight.detach().float().clone()
    return network.requires_grad_(True)


def _levels(form: Form) -> str:
    return ", ".join(f"{width} at 1/{stride}" for width, stride in zip(form.channels, form.strides, strict=True))


def level_masks(region: torch.Tensor, sizes: Sequence[tuple[int, int]], how: str = AREA) -> list[torch.Tensor]:
    """A region (B, H, W) in [0, 1] on the grid of each level: (B, 1, h, w), on the CPU.

    AREA: which share of each cell it covers, exactly, as Control Region does it. NEAREST: its value in each cell's
    first pixel, as the published code does it, which moves it by half a cell.
    """
    if how == NEAREST:
        return [F.interpolate(region[:, None], size, mode="nearest") for size in sizes]
    height, width = region.shape[1:]
    return [coverage(region, cells(height / h, height), cells(width / w, width))[:, None] for h, w in sizes]


def near(region: torch.Tensor, width: int, form: Form) -> torch.Tensor:
    """Where a hint of so many pixels' width is kept: 1 in the region (B, h, w) and around it, as far as the adapter's
    second level sees, then fading to 0, as Control Region does it by itself. -> (B, 1, h, w), on the CPU. The region
    may be on a coarser grid."""
    halo = form.reach[min(1, len(form.reach) - 1)]
    return surroundings(region, halo * region.shape[-1] / width)[:, None]


def predict(
    base: Base, noisy: torch.Tensor, t: torch.Tensor, told: dict[str, Any], features: Sequence[torch.Tensor] = ()
) -> torch.Tensor:
    """The UNet's output, features added where T2I-Adapters add them; without features, its own.

    noisy (B, C, h, w), t (B,), told: `Base.conditioning`. A graph leads to the features only.
    """
    kind = base.unet.dtype
    added = {"down_intrablock_additional_residuals": [one.to(kind) for one in features]} if features else {}
    return base.unet(noisy.to(kind), t, return_dict=False, **added, **control.cast(told, kind))[0]


def write(folder: Path, name: str, network: Adapter, about: dict[str, str]) -> list[Path]:
    """NAME.safetensors in the original layout, for ComfyUI, and, if diffusers has this form, the folder NAME for it."""
    found = [export.write(folder / f"{name}.safetensors", network.state_dict(), about)]
    try:
        return [*found, adapter_files.write_diffusers(folder / name, network, about)]
    except LimelightError:
        return found
