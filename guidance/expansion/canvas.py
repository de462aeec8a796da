"""Picture and subject on one canvas: everything that inpainting models and their ControlNets are given, from one mask.

The subject's mask is white where the picture is kept. It is made binary once; the masks of the latent, the grey fill
and the noise mask all come from that one. Only the hint of the salient-object ControlNet stays soft, as in its
training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import LimelightError
from .place import GREY

CELL = 8  # pixels a latent cell
KEPT = 0.5  # the subject is where its mask is above this; a half is painted, as in the training of the ControlNet


@dataclass(frozen=True)
class Canvas:
    """A batch on a canvas whose sides are multiples of 8.

    image: (B, H, W, 3) in [0, 1]. keep: (B, H, W), 1 on the subject, else 0. soft: (B, H, W) in [0, 1], the subject's
    mask with its soft edge. added: columns and rows of grey at the right and at the bottom.
    """

    image: torch.Tensor
    keep: torch.Tensor
    soft: torch.Tensor
    added: tuple[int, int]

    @property
    def grey(self) -> torch.Tensor:
        """(B, H, W, 3): the image, grey where it is painted."""
        return torch.where(self.keep[..., None] > 0, self.image, torch.full_like(self.image, GREY))

    @property
    def latent_mask(self) -> torch.Tensor:
        """(B, 1, H / 8, W / 8): 1 = paint; a cell is what its first pixel is, as in the training of the models."""
        return F.interpolate(1 - self.keep[:, None], scale_factor=1 / CELL, mode="nearest")

    @property
    def hint(self) -> torch.Tensor:
        """(B, H, W, 3): white = paint, with soft edges; of the salient-object ControlNet."""
        return (1 - self.soft)[..., None].expand(-1, -1, -1, 3)

    @property
    def hole(self) -> torch.Tensor:
        """(B, H, W, 3): the image, -1 where it is painted; of inpainting ControlNets with an ordinary input."""
        return torch.where(self.keep[..., None] > 0, self.image, torch.full_like(self.image, -1.0))


def canvas(image: np.ndarray, alpha: np.ndarray) -> Canvas:
    """Images (B, H, W, 3) and the subjects' opacity (B, H, W), both in [0, 1] -> Canvas.

    Nothing is cropped or squeezed: sides that are no multiple of 8 get up to 7 rows or columns of grey at the bottom
    and right, to be painted. Raises LimelightError for a mask that keeps nothing or all.
    """
    keep = torch.from_numpy(alpha > KEPT).float()
    for i, each in enumerate(keep):
        which = f"mask {i + 1} of {len(keep)}" if len(keep) > 1 else "mask"
        if not each.any():
            raise LimelightError(
                f"{which}: found nothing above a half, so that nothing would be kept; expected the subject in white."
            )
        if each.all():
            raise LimelightError(
                f"{which}: found a mask that is all white, so that there is no background to paint; expected white on "
                "the subject only. If it is white around the subject instead, put Invert Mask before it."
            )
    height, width = alpha.shape[1:]
    added = -width % CELL, -height % CELL
    edges = (0, added[0], 0, added[1])
    picture = F.pad(torch.from_numpy(image).float(), (0, 0, *edges), value=GREY)
    soft = F.pad(torch.from_numpy(alpha).float(), edges)
    return Canvas(picture, F.pad(keep, edges), soft, added)
