"""T2I-Adapters: the networks that turn a hint (edges, depth, pose) into features for a UNet, of every published form.

Mou et al., "T2I-Adapter" (AAAI 2024). A hint is folded (pixel unshuffle) by 8 for Stable Diffusion 1 and 2 or by 16 for
SDXL and passes convolutions without any normalisation; each level gives one map, the finest first. The weights keep the
names of the original files; `adapter_files` reads the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

XL_INPUTS = (256, 768)
"""Channels after folding that mean SDXL: 1 or 3 folded by 16. They are not told apart from 4 or 12 folded by 8."""


@dataclass(frozen=True)
class Form:
    """What a file's tensors say about its network."""

    light: bool
    channels: tuple[int, ...]
    """Of each level, the finest first."""
    hint_channels: int
    unshuffle: int
    blocks: int
    """Residual blocks in each level."""
    kernel: int = 1
    """Of a full adapter's second and joining convolutions."""
    down_convs: bool = False

    @property
    def xl(self) -> bool:
        """SDXL's: two levels at half of the latent's size, two at a quarter. Otherwise each halves the one before."""
        return self.unshuffle == 16

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels to a cell of each level."""
        return tuple(self.unshuffle * 2 ** sum(self.halves(j) for j in range(i + 1)) for i in range(len(self.channels)))

    def halves(self, level: int) -> bool:
        """Whether a level begins by halving the size."""
        return level == 2 if self.xl else level > 0

    @property
    def reach(self) -> tuple[int, ...]:
        """How far beyond a cell's edge the hint still matters to it, in pixels, at each level."""
        near, found = 0 if self.light else self.unshuffle, []
        for level, stride in enumerate(self.strides):
            if self.down_convs and self.halves(level):
                near += stride // 2
            joins, wide = level > 0 and self.channels[level] != self.channels[level - 1], self.kernel // 2
            near += stride * (2 * self.blocks if self.light else self.blocks * (1 + wide) + joins * wide)
            found.append(near)
        return tuple(found)


class Adapter(nn.Module):
    """A network of a given form. convolution: the class of its layers, torch's own for training; the host's, whose
    weights are not set, if none is given."""

    def __init__(self, form: Form, convolution: type | None = None) -> None:
        super().__init__()
        conv = convolution or _convolution()
        self.form = form
        folded = form.hint_channels * form.unshuffle**2
        if form.light:
            widths = (folded, *form.channels)
            self.body = nn.ModuleList(
                _LightLevel(conv, widths[i], out, form.blocks, form.halves(i)) for i, out in enumerate(form.channels)
            )
        else:
            self.conv_in = conv(folded, form.channels[0], 3, padding=1)
            self.body = nn.ModuleList(
                _Block(conv, form, level, first=number == 0)
                for level in range(len(form.channels))
                for number in range(form.blocks)
            )

    def forward(self, hint: torch.Tensor) -> list[torch.Tensor]:
        """hint: (B, hint channels, H, W) in [0, 1], both sides multiples of the form's `unshuffle` -> one map
        (B, channels, h, w) a level, the finest first."""
        x = F.pixel_unshuffle(hint, self.form.unshuffle)
        if not self.form.light:
            x = self.conv_in(x)
        found = []
        for number, block in enumerate(self.body, 1):
            x = block(x)
            if self.form.light or number % self.form.blocks == 0:
                found.append(x)
        return found


class _Block(nn.Module):
    """A residual block of a full adapter; the first of a level may halve the size and change the width."""

    def __init__(self, conv: type, form: Form, level: int, first: bool) -> None:
        super().__init__()
        width = form.channels[level]
        given = form.channels[level - 1] if first and level else width
        side = {"kernel_size": form.kernel, "padding": form.kernel // 2}
        self.halves = first and form.halves(level)
        if self.halves and form.down_convs:
            self.down_opt = nn.Module()
            self.down_opt.op = conv(given, given, 3, stride=2, padding=1)
        self.in_conv = conv(given, width, **side) if given != width else None
        self.block1 = conv(width, width, 3, padding=1)
        self.block2 = conv(width, width, **side)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.halves:
            x = self.down_opt.op(x) if hasattr(self, "down_opt") else _halved(x)
        x = x if self.in_conv is None else self.in_conv(x)
        return self.block2(F.relu(self.block1(x))) + x


class _LightLevel(nn.Module):
    """A level of a light adapter: narrow to a quarter, residual blocks, widen."""

    def __init__(self, conv: type, given: int, out: int, blocks: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.in_conv = conv(given, out // 4, 1)
        self.body = nn.Sequential(*(_LightBlock(conv, out // 4) for _ in range(blocks)))
        self.out_conv = conv(out // 4, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out_conv(self.body(self.in_conv(_halved(x) if self.halves else x)))


class _LightBlock(nn.Module):
    def __init__(self, conv: type, width: int) -> None:
        super().__init__()
        self.block1 = conv(width, width, 3, padding=1)
        self.block2 = conv(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block2(F.relu(self.block1(x))) + x


def _halved(x: torch.Tensor) -> torch.Tensor:
    """Means of 2x2 cells. Odd sizes are rounded up as the original code does: with a border of zeros on both sides."""
    return F.avg_pool2d(x, 2, padding=(x.shape[2] % 2, x.shape[3] % 2))


def _convolution() -> type:
    """The host's convolution, which takes its weights in the type and on the device of its input."""
    import comfy.ops

    return comfy.ops.manual_cast.Conv2d
