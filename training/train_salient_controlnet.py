"""Train a ControlNet that paints a background around an object with a text-to-image model.

    python -m limelight.training.train_salient_controlnet --preset yahoo \\
        --pretrained_model_name_or_path stable-diffusion-2-base --train_data_dir data --output_dir runs/salient

For Stable Diffusion 1.5, 2 and XL; with an inpainting model train_salient_inpaint_controlnet is the better choice. The
hint has the object's pixels on black. The data set is that of train_salient_inpaint_controlnet: picture, caption, and a
mask, white for the object.

The preset yahoo is the recipe published with "Salient Object-Aware Background Generation" (CVPRW 2024; no weights of
this kind were): crops, loss and rates as in the other trainer, and a hint from -1 to 1, in whose soft edges the mask
itself shows instead of the black. Without it hints are from 0 to 1, as ComfyUI and diffusers give pictures to a
ControlNet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..tools.console import main_guard
from . import control, run, salient
from .base import Base
from .task import Batch

HINTS = {
    "black": "the object's pixels on black, 0 to 1",
    "published": "the object's pixels on black, -1 to 1; in ComfyUI this is 2 x - 1 of a picture",
}
PRESETS = {"yahoo": salient.PUBLISHED | {"hint": "published"}}


class SalientControlNet(salient.SalientTask):
    """The task, see `salient.SalientTask`."""

    name = "salient-controlnet"
    kind = "salient-object ControlNet"
    channels = control.LATENT

    def __init__(self, base: Base, settings: argparse.Namespace):
        super().__init__(base, settings)
        self.hints = HINTS[settings.hint]
        self.settings["hint"] = settings.hint

    def seen(self, images: np.ndarray, masks: np.ndarray) -> Batch:
        """-> "hint" uint8 (B, 3, H, W): m x picture + (1 - m) x ground; the ground is 0 or, published, the mask m."""
        share = masks[..., None].astype(np.float32) / 255
        ground = 255 * share if self.options.hint == "published" else 0
        hint = np.round(share * images + (1 - share) * ground).astype(np.uint8)
        return {"hint": torch.from_numpy(hint).movedim(-1, 1)}

    def hint(self, batch: Batch) -> torch.Tensor:
        """In the range that HINTS says."""
        hint = batch["hint"].float() / 255
        return 2 * hint - 1 if self.options.hint == "published" else hint


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see --help."""
    made = salient.parser(Path(__file__).stem, __doc__, PRESETS)
    made.add_argument("--hint", choices=tuple(HINTS), default="black", help="its range (default %(default)s)")
    return salient.parse(made, argv, PRESETS)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trainer."""
    run.main(SalientControlNet, arguments(argv))


if __name__ == "__main__":
    sys.exit(main_guard(main))
