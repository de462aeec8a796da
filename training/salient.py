"""What the trainers of salient-object ControlNets have in common: crops with their masks, the loss, sheets, options.

In the data (column "mask") WHITE IS THE OBJECT, as prepare_salient_object writes it and as in the published data sets;
soft edges stay soft. Where a mask is told apart into two parts, the object is what is at least half white.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..guidance.errors import LimelightError
from ..guidance.regions import raster
from . import control, crops, options, pictures, prepare, preview
from .base import Base
from .draws import Draws
from .task import Batch
from .views import covering

WHITE = 128  # from which value on a pixel is the object's
GREY = 127.5  # of 0 to 255: 0 for the autoencoder

PUBLISHED = {
    # what the program and its README have; steps, batch and rate of the released weights are not known
    "resolution": [512],
    "zoom": 1.5,  # short side 768
    "keep": 0.0,
    "crops": 4,
    "random_flip": False,
    "border_weight": 1.0,
    "train_batch_size": 4,
    "learning_rate": 5e-6,
    "lr_scheduler": "constant",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_weight_decay": 1e-2,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "proportion_empty_prompts": 0.1,
}


class SalientTask:
    """Epsilon (or v) MSE of the frozen UNet under the ControlNet. A trainer says what its networks see: `channels` of
    the UNet's input, `seen`, `hint`, `beside`."""

    name: str
    kind: str
    channels: int
    hints: str  # what the hint's channels mean
    images = ("mask",)

    def __init__(self, base: Base, settings: argparse.Namespace):
        self.base, self.options = base, settings
        self.network = control.build(
            base, settings.controlnet_model_name_or_path, settings.seed, settings.head_channels, self.channels
        )
        self.settings = {n: getattr(settings, n) for n in ("resolution", "zoom", "keep", "crops", "random_flip")}

    def seen(self, images: np.ndarray, masks: np.ndarray) -> Batch:
        """uint8 (B, H, W, 3) and (B, H, W) -> what the cache keeps beside latents and masks."""
        raise NotImplementedError

    def hint(self, batch: Batch) -> torch.Tensor:
        """-> (B, 3, H, W)."""
        raise NotImplementedError

    def beside(self, batch: Batch, draws: Draws | None) -> torch.Tensor | None:
        """What the networks see after the noisy latent; without draws nothing about it is random."""
        return None

    def views(self, sample: dict[str, Any], rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
        """Crops of the picture with their masks, see `crop`; with --random_flip each also mirrored."""
        image, mask = sample["image"], pictures.stretched(sample["mask"].convert("L"))
        cells = np.asarray(mask)
        if cells.max() < WHITE:
            raise LimelightError("empty mask: nothing of it is white, which is the object")
        if cells.min() >= WHITE:
            raise LimelightError("full mask: all of it is white, and nothing is left to paint")
        given, found = self.options, []
        for _ in range(given.crops):
            view = crop(image, mask, given.resolution, given.zoom, given.keep, rng)
            found.append(view)
            if given.random_flip:
                found.append({name: values[:, ::-1] for name, values in view.items()})
        return found

    def encode(self, views: list[dict[str, np.ndarray]]) -> list[Batch]:
        """-> "moments" (2 C, h, w) of the latents; "object" (1, H, W) uint8, the mask; and what `seen` gives."""
        images, masks = (np.stack([view[name] for view in views]) for name in ("image", "mask"))
        made = {"moments": self.base.encode_images(images), "object": torch.from_numpy(masks)[:, None]}
        made |= self.seen(images, masks)
        return [{name: value[i] for name, value in made.items()} for i in range(len(views))]

    def loss(self, batch: Batch, draws: Draws) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """|| target - output ||^2, mean over a latent: object, background and all; with --border_weight the background
        along the object counts more."""
        base, weight = self.base, self.options.border_weight
        clean = control.clean_latents(base, batch["moments"], draws)
        beside = self.beside(batch, draws)
        given = control.noised(base, clean, draws)
        told = base.conditioning(batch)
        output = control.predict(base, self.network, given.noisy, given.t, told, self.hint(batch), beside)
        weights = 1.0
        if weight != 1:
            weights = border_weights(batch["object"], clean.shape[-2:], weight, self.options.border_cells)
        return control.errors(base, given, output, self.options.snr_gamma, weights), {}

    def validate(self, batch: Batch, empty: Batch, draws: Draws) -> tuple[list[Image.Image], dict[str, float]]:
        """Rows of: the object, what is made around it, the picture that it came from. "object_error": how different the
        object is in what is made, the mean over its pixels, 0 to 1."""
        base, beside = self.base, self.beside(batch, None)
        made = control.sample(base, self.network, batch, empty, draws, self.hint(batch), self.options, beside)
        given = base.latents(batch["moments"], None)
        painted, there = (base.decode(one).clamp(0, 1) for one in (made, given))
        inside = batch["object"].float() / 255
        error = ((painted - there).abs().mean(1, keepdim=True) * inside).sum() / inside.sum().clamp(min=1)
        kept = torch.lerp(torch.full_like(there, 0.5), there, inside)
        columns = [preview.images(part) for part in (kept, painted, there)]
        return [preview.row(cells) for cells in zip(*columns, strict=True)], {"object_error": float(error)}

    def export(self, folder: Path) -> list[Path]:
        """Both layouts, see `control.write`."""
        about = control.described(self.base, self.options, self.kind, self.hints)
        name = f"{self.name.replace('-', '_')}_{self.base.kind.lower()}"
        return control.write(folder, name, self.network, about)


def crop(
    image: Image.Image,
    mask: Image.Image,
    resolution: tuple[int, int],
    zoom: float,
    keep: float,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """A part of the picture at random, {"image": uint8 (H, W, 3), "mask": uint8 (H, W)}, H x W as `resolution` says.

    The picture is first resized to cover `zoom` times that, or less where no part would have the share `keep` of the
    object. Raises LimelightError if none has it however small the picture is, or if the object fills it.
    """
    width, height = resolution
    for side in crops.scales(width, zoom):
        size = covering(image.size, side, round(height * side / width))
        found = _resized(mask, size)
        (left, top, right, bottom), kept = crops.around(found, width, keep, rng, height)
        if kept > keep - 1e-6:
            break
    else:
        raise LimelightError(f"object does not fit: the best crop has {kept:.0%} of it, see --keep")
    part = found[top:bottom, left:right]
    if keep and part.min() >= WHITE:
        raise LimelightError("object fills the crop: nothing is left to paint")
    return {"image": _resized(image, size)[top:bottom, left:right], "mask": part}


def _resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """As the published program does it: each new pixel is the mean of what it covers."""
    values = np.asarray(image)
    if image.size == size:
        return values
    cv2 = raster.opencv()
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA)


def border_weights(objects: torch.Tensor, size: tuple[int, int], weight: float, reach: int) -> torch.Tensor:
    """Masks uint8 (B, 1, H, W) -> weights of the latents' cells, (B, 1, h, w), each sample's of mean 1: `weight` for
    those of the background within `reach` cells of the object, against 1."""
    cover = F.adaptive_avg_pool2d(objects.float() / 255, size)
    near = F.max_pool2d(cover, 2 * reach + 1, 1, reach)
    weights = 1 + (weight - 1) * (near - cover)
    return weights / weights.mean((1, 2, 3), keepdim=True)


def parser(module: str, text: str, presets: Mapping[str, Mapping[str, Any]]) -> argparse.ArgumentParser:
    """The options of both trainers."""
    made = options.parser(module, text, presets)
    control.add_arguments(made)
    add = made.add_argument_group("objects").add_argument
    add("--zoom", type=float, default=1.0, metavar="X", help="largest scale of the picture, in crops (default 1)")
    add("--keep", type=prepare.share, default=0.9, help="share of the object in each crop; 0: any (default 0.9)")
    add("--crops", type=prepare.positive, default=1, metavar="N", help="of each picture (default %(default)s)")
    add("--border_weight", type=float, default=1.0, metavar="X", help="of the loss along the object (default 1: none)")
    add("--border_cells", type=prepare.positive, default=2, metavar="N", help="how far, in latent cells (default 2)")
    return made


def parse(
    made: argparse.ArgumentParser, argv: Sequence[str] | None, presets: Mapping[str, Mapping[str, Any]]
) -> argparse.Namespace:
    """The options, checked."""
    given = options.parse(made, argv, presets)
    if given.zoom < 1:
        made.error(f"--zoom: found {given.zoom:g}; expected 1 or more")
    if given.border_weight <= 0:
        made.error(f"--border_weight: found {given.border_weight:g}; expected more than 0")
    return given
