"""A second predictor without weights: the image signature, differentiable. To check the first one, not to replace it.

Hou, Harel and Koch, "Image Signature: Highlighting Sparse Salient Regions" (PAMI 34(1), 2012). Of each colour channel
of a small picture only the signs of its cosine transform are kept and transformed back. A background that is sparse in
frequencies (plain, or a regular texture) vanishes, what takes little room stands out:

    m = g * sum over channels of idct(sign(dct(x)))^2

with g a Gaussian. The sign is softened to c / sqrt(c^2 + s^2), s a share of the channel's mean coefficient, so that
there is a gradient; without it guidance could not follow this predictor. It shares nothing with the graphs of
`classic_saliency` but the colour channels and the centre bias, so that each can judge what the other has guided.
"""

from __future__ import annotations

import math

import torch

from ..guidance.saliency.maps import centre_bias
from .saliency import SaliencyNetwork, resize

SIDE = 64  # pixels of the longer side that is transformed, as in the paper
SCALES = 1, 2, 4  # it is transformed at these reductions: the larger a thing, the more only its outline stands out
LEAST_SIDE, MAX_SIDE = 16, 192
SOFT = 0.5  # s, in shares of the channel's mean absolute coefficient
REACH = 0.045  # standard deviation of g in shares of the longer side, the paper's best
CENTRE = 0.5  # how much of the map the centre bias takes part in


class SignatureSaliency(SaliencyNetwork):
    """Image signature with a centre bias."""

    label = "image signature (no weights)"
    low_accuracy = True

    def prepare(self, images: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        height, width = images.shape[-2:]
        longer = min(MAX_SIDE, SIDE * scale) / max(height, width)
        return resize(images, *(max(LEAST_SIDE, round(side * longer)) for side in (height, width)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) in [0, 1] -> (B, h, w); each map sums to 1."""
        height, width = x.shape[-2:]
        red, green, blue = x.unbind(1)
        channels = torch.stack([x.mean(1), red - green, (red + green) / 2 - blue], 1)
        found = 0
        for reduction in SCALES:
            signed = _signature(resize(channels, height // reduction, width // reduction))
            found = found + resize(signed, height, width)
        sigma = REACH * max(height, width)
        smooth = _blur(height, sigma).to(x) @ found @ _blur(width, sigma).to(x).T
        smooth = smooth + 1e-3 * smooth.mean((1, 2), keepdim=True) + 1e-8
        bias = torch.from_numpy(centre_bias(height, width)).to(x)
        smooth = smooth * (1 - CENTRE + CENTRE * bias)
        return smooth / smooth.sum((1, 2), keepdim=True)

    def finish(self, raw: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Enlarged smoothly, the peak at 1."""
        maps = resize(raw, height, width, mode="bicubic").clamp_(min=0)
        return maps / maps.amax((1, 2), keepdim=True)


def _signature(channels: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B, h, w): the squares of what is left of the channels, added."""
    rows, columns = (_cosines(side).to(channels) for side in channels.shape[-2:])
    waves = rows @ channels @ columns.T
    soft = SOFT * waves.abs().mean((2, 3), keepdim=True) + 1e-4
    back = rows.T @ (waves / (waves.square() + soft.square()).sqrt()) @ columns
    # a channel without contrast has only rounding errors to take signs of: it counts by the contrast it has
    contrast = channels.std((2, 3), keepdim=True)
    return (back.square() * contrast / (contrast + 0.01)).sum(1)


def _cosines(count: int) -> torch.Tensor:
    """(n, n): the orthonormal DCT-II, frequencies in rows."""
    places = (torch.arange(count) + 0.5) * math.pi / count
    waves = torch.cos(torch.arange(count)[:, None] * places) * math.sqrt(2 / count)
    waves[0] /= math.sqrt(2)
    return waves


def _blur(count: int, sigma: float) -> torch.Tensor:
    """(n, n): smoothing by a Gaussian, the picture mirrored beyond its borders."""
    waves = _cosines(count)
    damped = torch.exp(-((math.pi * torch.arange(count) / count * sigma) ** 2) / 2)
    return waves.T @ (damped[:, None] * waves)
