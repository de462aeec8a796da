"""Hints of a saliency ControlNet, made of the maps of pictures: what users draw is seldom what a predictor says.

Pure functions of maps (B, 1, H, W) in [0, 1] and of uniform random numbers, a row a sample, on one device.
"""

from __future__ import annotations

import torch

WINDOW = 4  # random numbers of a window
CHANNELS = 5 + 2 * WINDOW  # and of a hint of three channels
GREY, SUPPRESS, EVERYWHERE, OPEN = 0.25, 2 / 3, 0.5, 0.5  # shares of samples, see `three_channels`
DULL = 0.3  # of a map's peak: places below it may be told to be suppressed, darker ones more
EDGE = 8.0  # steepness of a window's edge: from 12 % to 88 % over half of its radius


def dimmed(maps: torch.Tensor, u: torch.Tensor, least: float) -> torch.Tensor:
    """Amplitude jitter: each map times a number from ``least`` to 1. u: (B,)."""
    return maps * (least + (1 - least) * u.view(-1, 1, 1, 1))


def windows(u: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, 4) -> (B, 1, H, W) in [0, 1]: ellipses with soft edges, of radii from a tenth to half of the short side."""
    x, y, across, down = u.view(-1, WINDOW, 1, 1, 1).unbind(1)
    short = min(height, width)
    columns = ((torch.arange(width, device=u.device) + 0.5) - x * width) / short / (0.1 + 0.4 * across)
    rows = ((torch.arange(height, device=u.device) + 0.5)[:, None] - y * height) / short / (0.1 + 0.4 * down)
    return torch.sigmoid(EDGE * (1 - (columns.square() + rows.square()).sqrt()))


def three_channels(maps: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """-> (B, 3, H, W): where to attract attention, where to suppress it, and where nothing is said. u: (B, 13).

    A quarter of the samples keep the map in all channels, which is what a grey hint means. Of the others two thirds
    have something to suppress, which is where the picture draws little attention: everywhere or in a window; and half
    have a window, or all but a window, about which nothing is said: there the other channels are 0.
    """
    height, width = maps.shape[-2:]
    grey, suppress, everywhere, open_, outside = u[:, :5].view(-1, 5, 1, 1, 1).unbind(1)
    first, second = (windows(part, height, width) for part in u[:, 5:].split(WINDOW, 1))
    peak = maps.amax((2, 3), keepdim=True).clamp(min=1e-6)
    dull = (1 - maps / (DULL * peak)).clamp(min=0) * (suppress < SUPPRESS)
    dull = torch.where(everywhere < EVERYWHERE, dull, dull * first)
    unsaid = torch.where(outside < 0.5, second, 1 - second) * (open_ < OPEN)
    made = torch.cat([maps * (1 - unsaid), dull * (1 - unsaid), unsaid], 1)
    return torch.where(grey < GREY, maps.expand(-1, 3, -1, -1), made)
