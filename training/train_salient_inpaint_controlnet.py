"""Train a ControlNet that keeps an inpainting model from growing the object whose background it paints.

    python -m limelight.training.train_salient_inpaint_controlnet --preset yahoo \\
        --pretrained_model_name_or_path stable-diffusion-2-inpainting --train_data_dir data --output_dir runs/salient

For the inpainting models of Stable Diffusion 1.5, 2 and XL. UNet and ControlNet see nine channels: the noisy latent,
the mask (1 = paint), and the latent of the picture that is grey where it is painted. The hint is the mask, soft, white
for the background, 0 to 1. The data set has a picture, a caption and a mask, white for the object (`mask_file_name` in
an imagefolder, KEY.mask.png in shards); prepare_salient_object makes one. Several GPUs: `accelerate launch -m ...`. A
run that was stopped goes on with --resume_from_checkpoint latest.

The preset yahoo is the published recipe ("Salient Object-Aware Background Generation", CVPRW 2024): random crops of 512
of pictures with a short side of 768, wherever the object is; no flips; MSE over the whole latent; a tenth of the
captions empty; AdamW at 5e-6. Its --crops are drawn once for each picture and kept, where the published program draws
one each time; and its slip of one step at 1e-5 at the start of each epoch is left out. It was run with
--mixed_precision fp16 on eight GPUs. Without the preset every crop keeps the object, and pictures are also mirrored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..tools.console import main_guard
from . import control, run, salient
from .draws import Draws
from .task import Batch

PRESETS = {"yahoo": salient.PUBLISHED}


class SalientInpaintControlNet(salient.SalientTask):
    """The task, see `salient.SalientTask`."""

    name = "salient-inpaint-controlnet"
    kind = "salient-object inpainting ControlNet"
    channels = control.INPAINTING
    hints = "mask in all channels, soft, 0 to 1, white: background"

    def seen(self, images: np.ndarray, masks: np.ndarray) -> Batch:
        """-> "masked" (B, 2 C, h, w): moments of the latents of the pictures, grey where they are painted."""
        kept = torch.from_numpy(masks >= salient.WHITE)[..., None]
        return {"masked": self.base.encode_images(torch.where(kept, torch.from_numpy(images).float(), salient.GREY))}

    def hint(self, batch: Batch) -> torch.Tensor:
        """The mask, turned round."""
        return (1 - batch["object"].float() / 255).expand(-1, 3, -1, -1)

    def beside(self, batch: Batch, draws: Draws | None) -> torch.Tensor:
        """(B, 5, h, w): the mask, of each cell that of the pixel in its corner, as in diffusers; the masked latent."""
        paint = F.interpolate((batch["object"] < salient.WHITE).float(), batch["masked"].shape[-2:])
        base, moments = self.base, batch["masked"]
        kept = base.latents(moments, None) if draws is None else control.clean_latents(base, moments, draws)
        return torch.cat([paint, kept], 1)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see --help."""
    return salient.parse(salient.parser(Path(__file__).stem, __doc__, PRESETS), argv, PRESETS)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trainer."""
    run.main(SalientInpaintControlNet, arguments(argv))


if __name__ == "__main__":
    sys.exit(main_guard(main))
