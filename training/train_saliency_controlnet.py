"""Train a ControlNet whose hint is a saliency map: viewers shall look where the map is bright.

    python -m limelight.training.train_saliency_controlnet --preset gazefusion \\
        --pretrained_model_name_or_path stable-diffusion-2-1-base --train_data_dir data --output_dir runs/saliency

For Stable Diffusion 1.5, 2.1 and XL. The data set has a picture, a caption and a map (`saliency_file_name` in an
imagefolder, KEY.saliency.png in shards); prepare_saliency makes one. Several GPUs: `accelerate launch -m ...`. A run
that was stopped goes on with --resume_from_checkpoint latest.

The preset gazefusion is the published recipe (GazeFusion, ACM TAP 2024): the map in all three channels, no dropout of
captions, no augmentation, float32, AdamW at 1e-5, batches of 16. Without it, maps are also dimmed, mirrored and, a part
of the time, replaced by the few blobs that a user would draw.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..guidance.saliency import metrics
from ..models.classic_saliency import ClassicSaliency
from ..tools.console import main_guard
from . import blobs, control, hints, noise, options, preview, run, saliency_loss
from .base import Base
from .draws import Draws
from .prepare_saliency import predictor
from .task import Batch
from .views import cover

PRESETS = {
    "gazefusion": {
        "resolution": [512],
        "max_train_steps": 500_000,
        "train_batch_size": 16,
        "learning_rate": 1e-5,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "mixed_precision": "no",
        "max_grad_norm": 0.0,
        "proportion_empty_prompts": 0.0,
        "checkpointing_steps": 5000,
        "checkpoints_total_limit": 1,
        "validation_steps": 1000,
        "validation_scale": 9.0,
        "seed": 123,
        "hint": "grey",
        "random_flip": False,
        "amplitude_jitter": 1.0,
        "gaussian_maps": 0.0,
        "saliency_loss_weight": 0.0,
    }
}
HINTS = {
    "grey": "saliency map in all channels, 0 to 1",
    "channels": "red: attract, green: suppress, blue: do not care, each 0 to 1; a grey map is one to attract",
}


class SaliencyControlNet:
    """The task: epsilon (or v) MSE of the frozen UNet under the ControlNet."""

    name = "saliency-controlnet"
    images = ("saliency",)

    def __init__(self, base: Base, settings: argparse.Namespace):
        self.base, self.options = base, settings
        self.network = control.build(
            base, settings.controlnet_model_name_or_path, settings.seed, settings.head_channels
        )
        self.settings = {
            "resolution": settings.resolution,
            "flip": settings.random_flip,
            "blobs": settings.gaussian_count if settings.gaussian_maps else 0,
        }
        self.judge = ClassicSaliency()
        self.predictor = predictor(settings.saliency_predictor) if settings.saliency_loss_weight else None
        if self.predictor is not None:
            self.predictor.requires_grad_(False).eval()

    def views(self, sample: dict[str, Any], rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
        """The picture and its map, covering the resolution; with --random_flip also mirrored."""
        size = self.options.resolution
        view = {
            "image": np.asarray(cover(sample["image"], *size)),
            "hint": np.asarray(cover(sample["saliency"].convert("L"), *size))[None],
        }
        mirrored = {"image": view["image"][:, ::-1], "hint": view["hint"][..., ::-1]}
        return [view, mirrored] if self.options.random_flip else [view]

    def encode(self, views: list[dict[str, np.ndarray]]) -> list[Batch]:
        """-> "moments" (2 C, h, w) of the latents; "hint" (1, H, W), uint8; "blobs" (K, 6), see `blobs`."""
        moments = self.base.encode_images(np.stack([view["image"] for view in views]))
        maps = torch.from_numpy(np.stack([view["hint"] for view in views]))
        made = [{"moments": one, "hint": hint} for one, hint in zip(moments, maps, strict=True)]
        if self.settings["blobs"]:
            for one, found in zip(made, blobs.fit(maps[:, 0] / 255, self.settings["blobs"]), strict=True):
                one["blobs"] = found
        return made

    def loss(self, batch: Batch, draws: Draws) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """|| target - output ||^2, mean over a latent; and the consistency of `saliency_loss`, if asked for."""
        base = self.base
        given = control.noised(base, control.clean_latents(base, batch["moments"], draws), draws)
        hint = self._hint(batch, draws)
        output = control.predict(base, self.network, given.noisy, given.t, base.conditioning(batch), hint)
        losses = control.errors(base, given, output, self.options.snr_gamma)
        if self.predictor is None:
            return losses, {}
        numbers, weights = (draws.to_device(part) for part in saliency_loss.chosen(base, given.times))
        told = losses.new_zeros(len(losses))
        if len(numbers):
            for part in (base.vae, self.predictor):
                part.to(losses.device)
            believed = noise.clean_estimate(given.noisy, output.float(), given.level, base.prediction)[numbers]
            maps = batch["hint"][numbers].float() / 255
            told = told.index_add(0, numbers, weights * saliency_loss.divergence(base, self.predictor, believed, maps))
        return losses + self.options.saliency_loss_weight * told, {"saliency_loss": told.detach().mean()}

    def _hint(self, batch: Batch, draws: Draws | None = None) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1]; with draws, augmented as the options say."""
        given, maps = self.options, batch["hint"].float() / 255
        if draws is None:
            return maps.expand(-1, 3, -1, -1)
        u = draws.to_device(draws.uniform(2 + hints.CHANNELS))
        if given.gaussian_maps:
            drawn = blobs.render(batch["blobs"].float(), *maps.shape[-2:])[:, None]
            maps = torch.where((u[:, 0] < given.gaussian_maps).view(-1, 1, 1, 1), drawn, maps)
        if given.amplitude_jitter < 1:
            maps = hints.dimmed(maps, u[:, 1], given.amplitude_jitter)
        return hints.three_channels(maps, u[:, 2:]) if given.hint == "channels" else maps.expand(-1, 3, -1, -1)

    def validate(self, batch: Batch, empty: Batch, draws: Draws) -> tuple[list[Image.Image], dict[str, float]]:
        """Rows of: the map, what is made under it, the picture that it came from. "saliency_cc": correlation of what a
        predictor without weights sees in what is made with the map, the mean."""
        hint, base = self._hint(batch), self.base
        made = control.sample(base, self.network, batch, empty, draws, hint, self.options)
        given = base.latents(batch["moments"], None)
        pictures = base.decode(made).clamp(0, 1)
        seen = self.judge.predict(pictures.movedim(1, -1).cpu()).numpy()
        fit = np.mean([metrics.cc(one, wish) for one, wish in zip(seen, hint[:, 0].cpu().numpy(), strict=True)])
        columns = (preview.images(part) for part in (hint, pictures, base.decode(given)))
        return [preview.row(cells) for cells in zip(*columns, strict=True)], {"saliency_cc": float(fit)}

    def export(self, folder: Path) -> list[Path]:
        """Both layouts, see `control.write`."""
        about = control.described(self.base, self.options, "saliency ControlNet", HINTS[self.options.hint])
        return control.write(folder, f"saliency_controlnet_{self.base.kind.lower()}", self.network, about)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see --help."""
    made = options.parser(__name__ if __name__ != "__main__" else Path(__file__).stem, __doc__, PRESETS)
    control.add_arguments(made)
    add = made.add_argument_group("saliency").add_argument
    add("--hint", choices=tuple(HINTS), default="grey", help="what its channels mean (default %(default)s)")
    add("--amplitude_jitter", type=float, default=0.5, metavar="X", help="dim maps down to that (default %(default)s)")
    add("--gaussian_maps", type=float, default=0.3, metavar="P", help="share as a few blobs (default %(default)s)")
    add("--gaussian_count", type=int, default=3, metavar="N", help="of these blobs (default %(default)s)")
    add("--saliency_loss_weight", type=float, default=0.0, metavar="X", help="of the consistency loss (default none)")
    add("--saliency_predictor", default="signature", metavar="FILE", help="for it: classic, signature or weights")
    given = options.parse(made, argv, PRESETS)
    for name in ("amplitude_jitter", "gaussian_maps"):
        if not 0 <= getattr(given, name) <= 1:
            made.error(f"--{name}: found {getattr(given, name):g}; expected a number from 0 to 1")
    if given.gaussian_count < 1 or given.saliency_loss_weight < 0:
        made.error("--gaussian_count has to be 1 or more, --saliency_loss_weight 0 or more")
    return given


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trainer."""
    run.main(SaliencyControlNet, arguments(argv))


if __name__ == "__main__":
    sys.exit(main_guard(main))
