"""EML-Net with two ResNet-50, the predictor that made GazeFusion's training maps.

Jia and Bruce, "EML-NET: An Expandable Multi-Layer NETwork for saliency prediction" (Image and Vision Computing, 2020).
Modules are named as in the three published files: res_imagenet.pth and res_places.pth (360 tensors each) and
res_decoder.pth (77).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..guidance.saliency.maps import blur
from .saliency import SaliencyNetwork, resize

SIZE = 480, 640  # of what the networks see, whatever the picture's aspect
MOST = 1024  # pixels of the longer side of a map while it is smoothed
BLUR = 10 / 512  # standard deviation of GazeFusion's smoothing, as a share of the map's short side
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
WIDTHS = (64, 256, 512, 1024, 2048)  # of the features at 1/2, 1/4, 1/8, 1/16, 1/32 of the size


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut; names as in torchvision."""

    def __init__(self, wide: int, hidden: int, stride: int) -> None:
        super().__init__()
        out = 4 * hidden
        self.conv1, self.bn1 = nn.Conv2d(wide, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.conv2, self.bn2 = nn.Conv2d(hidden, hidden, 3, stride, 1, bias=False), nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)
        if stride > 1 or wide != out:
            self.downsample = nn.Sequential(nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        else:
            self.downsample = nn.Sequential()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Branch(nn.Module):
    """A ResNet-50 with a one-channel map of each of its five scales. `combined` is the branch's own read-out, which
    is in the file and unused where a decoder joins two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        wide = 64
        for i, (hidden, count, stride) in enumerate(STAGES, 1):
            blocks = [Bottleneck(wide, hidden, stride)]
            blocks += [Bottleneck(4 * hidden, hidden, 1) for _ in range(count - 1)]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            wide = 4 * hidden
        for i, width in enumerate(WIDTHS):
            self.add_module(f"output{i}", _readout(width))
        self.combined = _readout(len(WIDTHS))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, h, w) -> five maps (B, 1, h/2, w/2) to (B, 1, h/32, w/32)."""
        x = F.relu(self.bn1(self.conv1(x)))
        maps = [self.output0(x)]
        x = F.max_pool2d(x, 3, 2, 1)
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
            maps.append(self.get_submodule(f"output{i}")(x))
        return [F.relu(each) for each in maps]


class Decoder(nn.Module):
    """Ten maps -> one."""

    def __init__(self) -> None:
        super().__init__()
        self.img_model, self.pla_model = (nn.ModuleList(_readout(1) for _ in WIDTHS) for _ in range(2))
        self.combined = _readout(2 * len(WIDTHS))

    def forward(self, imagenet: list[torch.Tensor], places: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """-> (B, 1, *size) in (0, 1)."""
        pairs = [*zip(self.img_model, imagenet, strict=True), *zip(self.pla_model, places, strict=True)]
        enlarged = [F.interpolate(F.relu(layer(each)), size, mode="nearest") for layer, each in pairs]
        return torch.sigmoid(self.combined(torch.cat(enlarged, 1)))


class EMLNet(SaliencyNetwork):
    """Both branches and the decoder. What it gives is no density but a map in (0, 1)."""

    label = "EML-Net"

    def __init__(self) -> None:
        super().__init__()
        self.imagenet, self.places, self.decoder = Branch(), Branch(), Decoder()

    def prepare(self, images: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """Colours as they are, without the usual mean and deviation; the aspect is ignored, as in training."""
        rows, columns = (max(2, round(side * scale / 32)) * 32 for side in SIZE)
        return resize(images, rows, columns)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) in [0, 1] -> (B, h, w) in (0, 1)."""
        return self.decoder(self.imagenet(x), self.places(x), tuple(x.shape[-2:]))[:, 0]

    def finish(self, raw: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Enlarged and smoothed as for GazeFusion's training maps, whose last step is to stretch each from 0 to 1."""
        reduced = min(1, MOST / max(height, width))  # what is this smooth needs no finer grid
        rows, columns = (max(1, round(side * reduced)) for side in (height, width))
        maps = blur(resize(raw, rows, columns).numpy(), BLUR * min(rows, columns))
        return resize(torch.from_numpy(maps), height, width)


def _readout(wide: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(wide, 1, 3, padding=1), nn.BatchNorm2d(1))
