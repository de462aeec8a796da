"""Train a ControlNet whose hint is a saliency map: viewers shall look where the map is bright.

    python -m limelight.training.train_saliency_controlnet --preset gazefusion \\
        --pretrained_model_name_or_path stable-diffusion-2-1-base --train_data_dir data --output_dir runs/saliency

For Stable Diffusion 1.5, 2.1 and XL. The data set has a picture, a caption and a map (`saliency_file_name` in an
imagefolder, KEY.saliency.png in shards); prepare_saliency makes one. Several GPUs: `accelerate launch -m ...`. A run
that was stopped goes on with --resume_from_checkpoint latest.

The preset gazefusion is the published recipe (GazeFusion, ACM TAP 2024): the map in all three channels, no dropout of
captions, no augmentation, float32, AdamW at 1e-5, batches of 16.
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

from ..guidance.errors import LimelightError
from ..tools.console import StepFailed, main_guard
from . import control, export, noise, options, preview, run
from .base import Base, load
from .draws import Draws
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
    }
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
        self.settings = {"resolution": settings.resolution, "flip": settings.random_flip}

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
        """-> "moments" (2 C, h, w) of the latents; "hint" (1, H, W), uint8."""
        moments = self.base.encode_images(np.stack([view["image"] for view in views]))
        hints = [torch.from_numpy(view["hint"].copy()) for view in views]
        return [{"moments": one, "hint": hint} for one, hint in zip(moments, hints, strict=True)]

    def loss(self, batch: Batch, draws: Draws) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """|| target - output ||^2, mean over a latent."""
        base = self.base
        shape = batch["moments"].shape[1] // 2, *batch["moments"].shape[2:]
        clean = base.latents(batch["moments"], draws.normal(*shape))
        added = draws.normal(*shape)
        t = draws.to_device(noise.uniform_times(draws.uniform(), base.times))
        level = base.level(t)
        noisy = noise.add_noise(clean, added, level)
        output = control.predict(base, self.network, noisy, t, base.conditioning(batch), self._hint(batch))
        wanted = noise.target(clean, added, level, base.prediction)
        losses = (output.float() - wanted).square().mean((1, 2, 3))
        if self.options.snr_gamma is not None:
            losses = losses * noise.min_snr_weights(level, self.options.snr_gamma, base.prediction)
        return losses, {}

    def _hint(self, batch: Batch) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1]."""
        return (batch["hint"].float() / 255).expand(-1, 3, -1, -1)

    def validate(self, batch: Batch, empty: Batch, draws: Draws) -> tuple[list[Image.Image], dict[str, float]]:
        """Rows of: the map, what is made under it, the picture that it came from."""
        hint, base = self._hint(batch), self.base
        shape = batch["moments"].shape[1] // 2, *batch["moments"].shape[2:]

        def predict(z: torch.Tensor, t: torch.Tensor, text: Batch) -> torch.Tensor:
            return control.predict(base, self.network, z, t, base.conditioning({**batch, **text}), hint)

        made = preview.sample(base, draws.normal(*shape), {}, empty, predict, scale=self.options.validation_scale)
        given = base.latents(batch["moments"], None)
        columns = (preview.images(part) for part in (hint, base.decode(made), base.decode(given)))
        return [preview.row(cells) for cells in zip(*columns, strict=True)], {}

    def export(self, folder: Path) -> list[Path]:
        """Both layouts, see `control.write`."""
        about = export.metadata(
            kind="saliency ControlNet",
            base=self.base.kind,
            base_model=self.base.source,
            prediction=self.base.prediction,
            hint="saliency map in all channels, 0 to 1",
            preset=self.options.preset,
            resolution="x".join(map(str, self.options.resolution)),
        )
        return control.write(folder, f"saliency_controlnet_{self.base.kind.lower()}", self.network, about)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see --help."""
    made = options.parser(__name__ if __name__ != "__main__" else Path(__file__).stem, __doc__, PRESETS)
    add = made.add_argument_group("saliency ControlNet").add_argument
    add("--controlnet_model_name_or_path", type=Path, metavar="PATH", help="weights to start from (default: base)")
    add("--head_channels", type=int, metavar="N", help="of an attention head; ComfyUI takes 64 in nets of unknown size")
    add("--random_flip", action="store_true", help="every sample also mirrored")
    add("--validation_scale", type=float, default=preview.SCALE, metavar="X", help="guidance (default %(default)s)")
    return options.parse(made, argv, PRESETS)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trainer."""
    given = arguments(argv)
    try:
        base = load(given.pretrained_model_name_or_path, given.prediction_type, given.tokenizer)
        run.train(SaliencyControlNet(base, given), base, given)
    except LimelightError as error:
        raise StepFailed(str(error)) from error


if __name__ == "__main__":
    sys.exit(main_guard(main))
