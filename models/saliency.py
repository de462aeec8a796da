"""What every saliency predictor has in common: pictures in, maps of where people look out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CHUNK = 4  # pictures that a network sees at once; each is reduced to the network's own size before
FLOOR = 1e-6  # share of the flat map in a density made of a map, so that its logarithm is finite


class SaliencyNetwork(nn.Module):
    """A predictor: `prepare`, `forward`, `finish`. Gradients go through the first two, and so through `log_density`.

    label: its name for people. low_accuracy: whether it is only a stand-in for a learned predictor.
    """

    label = ""
    low_accuracy = False

    def prepare(self, images: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1], any size -> what `forward` takes, of bounded size.

        scale: how much larger the picture appears to the viewer than those of the training data did, in degrees of
        visual angle (see `guidance.saliency.display`); the network's input grows with it.
        """
        raise NotImplementedError

    def finish(self, raw: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """What `forward` gave, (B, h, w), as maps of the pictures' size: (B, height, width), not below 0."""
        return resize(raw, height, width)

    def log_density(self, images: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, h, w) on the network's own grid: natural logarithm of how probable each cell
        is to be looked at; its exponential sums to 1."""
        raw = self(self.prepare(images, scale)).float()
        raw = raw + FLOOR * raw.amax((1, 2), keepdim=True) + torch.finfo(raw.dtype).tiny
        return (raw / raw.sum((1, 2), keepdim=True)).log()

    def predict(
        self, images: torch.Tensor, scale: float = 1.0, device: torch.device | str = "cpu", chunk: int = CHUNK
    ) -> torch.Tensor:
        """(B, H, W, 3) in [0, 1] -> (B, H, W) float32 on the CPU, not below 0; what 1 means is the network's affair.

        device: where the weights are. Of full size there are never more than the pictures, the maps and one more of
        each: pictures are reduced to the network's size one at a time, `chunk` of them go through it together, and each
        map is enlarged alone.
        """
        height, width = images.shape[1:3]
        maps = torch.empty(images.shape[:3])
        with torch.no_grad():
            for start in range(0, len(images), chunk):
                pictures = images[start : start + chunk]
                small = torch.cat([self.prepare(one[None].movedim(-1, 1).float(), scale) for one in pictures])
                raw = self(small.to(device)).float().cpu()
                for i, one in enumerate(raw):
                    maps[start + i] = self.finish(one[None], height, width)[0]
        return maps


@dataclass(frozen=True)
class Predictor:
    """A network and the host's patcher around it, which decides where its weights are."""

    network: SaliencyNetwork
    patcher: Any

    @classmethod
    def of(cls, network: SaliencyNetwork) -> Predictor:
        """Takes a filled network over into the host's memory management."""
        import comfy.model_management as management
        import comfy.model_patcher

        network = network.train(False).requires_grad_(False)
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        return cls(network, patcher(network, management.get_torch_device(), management.unet_offload_device()))

    def load(self) -> torch.device:
        """Has the host move the weights to where they run. -> the device.

        They stay ordinary tensors, so that a gradient can go through the network.
        """
        import comfy.model_management as management

        with torch.inference_mode(False):
            management.load_models_gpu([self.patcher], force_full_load=True)
        return self.patcher.load_device

    def predict(self, images: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """`SaliencyNetwork.predict` where the host runs the network."""
        return self.network.predict(images, scale, self.load())


def resize(maps: torch.Tensor, height: int, width: int, mode: str = "bilinear") -> torch.Tensor:
    """(B, H, W) or (B, C, H, W) -> the same with (height, width); smoothed first where it shrinks."""
    four = maps if maps.ndim == 4 else maps[:, None]
    shrinks = height < maps.shape[-2] or width < maps.shape[-1]
    resized = F.interpolate(four, (height, width), mode=mode, align_corners=False, antialias=shrinks)
    return resized if maps.ndim == 4 else resized[:, 0]
