"""Random weights in the layouts of the published saliency predictors."""

from __future__ import annotations

import torch


def randomized(module, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state of `module` in which no weight is at its start value and activations stay of ordinary size."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in module.state_dict().items():
        if not value.is_floating_point():
            state[key] = value.clone()
        elif key.endswith("running_var"):
            state[key] = torch.rand(value.shape, generator=generator) + 0.5
        elif "gaussians" in key:
            centres, spreads = torch.rand(*value.shape[:2], 2, generator=generator).unbind(-1)
            state[key] = torch.stack([centres, spreads - 2], -1)
        elif "smoothing" in key:
            kernel = torch.rand(value.shape, generator=generator)
            state[key] = kernel / kernel.sum()
        elif value.ndim > 1:
            state[key] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        elif key.endswith(".weight"):
            state[key] = torch.rand(value.shape, generator=generator) + 0.5
        else:
            state[key] = torch.randn(value.shape, generator=generator) * 0.2
    return state


def unisal_state() -> dict[str, torch.Tensor]:
    """The published layout, 835 tensors, from the copy of UNISAL in the package `mediaattention`."""
    return randomized(reference())


def reference():
    """UNISAL as `mediaattention` carries it."""
    from mediaattention.unisal.model import UNISAL

    return UNISAL(cnn_cfg={"pretrained": False}, verbose=0).eval()


def eml_states() -> dict[str, dict[str, torch.Tensor]]:
    """By file name: as the original trainer saves them, with a prefix, inside a "state_dict"."""
    from limelight.models.emlnet import Branch, Decoder

    parts = {"res_imagenet.pth": Branch(), "res_places.pth": Branch(), "res_decoder.pth": Decoder()}
    return {
        name: {"state_dict": {f"module.{k}": v for k, v in randomized(part, seed).items()}, "epoch": 10}
        for seed, (name, part) in enumerate(parts.items())
    }
