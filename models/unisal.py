"""UNISAL for pictures: 3.7 million weights, four viewing domains, a log-density out.

Droste, Jiao and Noble, "Unified Image and Video Saliency Modeling" (ECCV 2020). Modules are named as in the published
checkpoints (835 tensors), so that every weight is accounted for. The recurrent part, 283 of them, only sees videos: in
image mode the published network goes around it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .saliency import SaliencyNetwork, resize

DOMAINS = ("DHF1K", "Hollywood", "UCFSports", "SALICON")
VIDEO_KEYS = ("rnn.", "post_rnn.")
GRID = 32  # pixels of a cell of the input
SIDES, AREA = range(7, 14), range(100, 121)  # cells: a side, altogether
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRIORS, PRIOR_PEAK = 16, 6.0
SMOOTHING = 41
# MobileNetV2: expansion, channels, blocks, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
TAP_8, TAP_16 = 7, 14  # features that are taken at 1/8 and 1/16 of the input's size


class DomainNorm(nn.Module):
    """One batch normalisation a domain. `domain`: which one counts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.domain = DOMAINS[-1]
        for domain in DOMAINS:
            self.add_module(f"bn_{domain}", nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(f"bn_{self.domain}")(x)


class InvertedResidual(nn.Module):
    """1x1 expansion (if any), 3x3 by channel, 1x1 projection. Strides are done afterwards, by leaving pixels out."""

    def __init__(
        self, wide: int, out: int, stride: int, expansion: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        hidden = wide * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [nn.Conv2d(wide, hidden, 1, bias=False), norm(hidden), nn.ReLU6()]
        layers += [nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False), norm(hidden), nn.ReLU6()]
        layers += [nn.Conv2d(hidden, out, 1, bias=False), norm(out)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and wide == out
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNet(nn.Module):
    """MobileNetV2 whose blocks work at the size before their stride."""

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [_conv_norm(3, 32, 3, 2)]
        wide = 32
        for expansion, out, count, stride in STAGES:
            for i in range(count):
                features.append(InvertedResidual(wide, out, stride if i == 0 else 1, expansion))
                wide = out
        features.append(_conv_norm(wide, 1280, 1, 1))
        self.features = nn.Sequential(*features)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, 3, h, w) -> features at 1/32 (1280), 1/16 (160) and 1/8 (64) of the size."""
        taps = {}
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in (TAP_8, TAP_16):
                taps[i] = x
            if isinstance(layer, InvertedResidual) and layer.stride > 1:
                x = x[..., ::2, ::2]
        return x, taps[TAP_16], taps[TAP_8]


class Unisal(SaliencyNetwork):
    """The image mode. domain: whose viewers are predicted; SALICON is the only one of still pictures."""

    label = "UNISAL"

    def __init__(self, domain: str = "SALICON") -> None:
        super().__init__()
        self.cnn = MobileNet()
        self.post_cnn = _only("inv_res", InvertedResidual(1280 + PRIORS, 256, 1, 1))
        self.skip_2x, self.skip_4x = _skip(160, 128), _skip(64, 64)
        self.upsampling_2 = _only("inv_res", InvertedResidual(256 + 128, 128, 1, 2, DomainNorm))
        self.post_upsampling_2 = _only("inv_res", InvertedResidual(128 + 64, 64, 1, 2, DomainNorm))
        for each in map(str.lower, DOMAINS):
            self.register_parameter(f"coarse_gaussians_{each}", nn.Parameter(torch.zeros(PRIORS, 2, 2)))
            self.add_module(f"adaptation_{each}", nn.Sequential(nn.Conv2d(64, 1, 1)))
            self.add_module(f"smoothing_{each}", nn.Conv2d(1, 1, SMOOTHING, bias=False))
        self.domain = domain
        for module in self.modules():
            if isinstance(module, DomainNorm):
                module.domain = domain

    def prepare(self, images: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        height, width = images.shape[-2:]
        small = resize(images, *input_size(height, width, scale), mode="bicubic").clamp(0, 1)
        mean, std = (torch.tensor(value, device=small.device).view(3, 1, 1) for value in (MEAN, STD))
        return (small - mean) / std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w), normalised -> (B, h, w) scores; their softmax over the map is the density."""
        domain, size = self.domain.lower(), x.shape[-2:]
        deep, middle, fine = self.cnn(x)
        y = self.post_cnn(torch.cat([deep, self._priors(deep)], 1))
        y = self.upsampling_2(torch.cat([_double(y), self.skip_2x(middle)], 1))
        y = self.post_upsampling_2(torch.cat([_double(y), self.skip_4x(fine)], 1))
        y = self.get_submodule(f"adaptation_{domain}")(y)
        y = F.pad(F.interpolate(y, size, mode="nearest"), [SMOOTHING // 2] * 4, mode="replicate")
        return self.get_submodule(f"smoothing_{domain}")(y)[:, 0]

    def log_density(self, images: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        scores = self(self.prepare(images, scale)).float()
        return scores.flatten(1).log_softmax(1).view_as(scores)

    def finish(self, raw: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Scores are enlarged, then turned into a density, here with the peak at 1."""
        scores = resize(raw, height, width)
        return scores.sub_(scores.amax((1, 2), keepdim=True)).exp_()

    def _priors(self, deep: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, 16, h, w): 6 exp(-((y - my)/sy)^2/2 - ((x - mx)/sx)^2/2), y and x from 0 to 1."""
        gaussians = self.get_parameter(f"coarse_gaussians_{self.domain.lower()}").to(deep)
        along = [
            ((torch.linspace(0, 1, count).to(deep) - gaussians[:, axis, :1]) / gaussians[:, axis, 1:].exp()).square()
            for axis, count in enumerate(deep.shape[-2:])
        ]
        maps = PRIOR_PEAK * torch.exp(-(along[0][:, :, None] + along[1][:, None]) / 2)
        return maps.expand(len(deep), -1, -1, -1)


def input_size(height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
    """The network's input for a picture: of 100 to 120 cells of 32 pixels, 7 to 13 a side, the nearest aspect; then
    ``scale`` times as large."""
    cells = [(rows, columns) for rows in SIDES for columns in SIDES if rows * columns in AREA]
    rows, columns = max(cells, key=lambda c: min(height * c[1], width * c[0]) / max(height * c[1], width * c[0]))
    return max(2, round(rows * scale)) * GRID, max(2, round(columns * scale)) * GRID


def _conv_norm(wide: int, out: int, size: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(wide, out, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6())


def _skip(wide: int, out: int) -> nn.Sequential:
    expansion = nn.Sequential(nn.Conv2d(wide, 2 * wide, 1, bias=False), DomainNorm(2 * wide), nn.ReLU6())
    reduction = nn.Sequential(nn.Conv2d(2 * wide, out, 1), DomainNorm(out))
    return nn.Sequential(OrderedDict(expansion=expansion, reduction=reduction))


def _only(name: str, module: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict([(name, module)]))


def _double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
