"""Sample shapeworld with the host's own classes in this process, as its KSampler does."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..tools.in_process import import_host
from .workflow import CONTROLS, NODES

STEPS = 25
SCALE = 4.0  # guidance scale of all tables
SCHEDULER = "normal"
SIDE = 128
WEIGHTS = NODES / "shapeworld.safetensors"
TRANSFORMER = WEIGHTS.with_stem("shapeworld_transformer")


@dataclass(frozen=True)
class World:
    """The host's MODEL, CLIP and VAE objects."""

    model: Any
    clip: Any
    vae: Any


def load_world(weights: Path = WEIGHTS, inpaint: Path | None = None) -> World:
    """Shapeworld through its loader node's code, on the GPU where torch has one. inpaint: INPAINT for the UNet with 9
    channels."""
    for path in (weights, inpaint):
        if path is not None:
            _there(path)
    import torch

    import_host(cpu=not torch.cuda.is_available())
    return World(*_loader().load(weights, inpaint))


def load_transformer_world(transformer: Path = TRANSFORMER, weights: Path = WEIGHTS) -> World:
    """Shapeworld with the diffusion transformer, as `load_world`. weights: of the rest."""
    for path in (transformer, weights):
        _there(path)
    import torch

    import_host(cpu=not torch.cuda.is_available())
    return World(*_loader().load_with_transformer(weights, transformer))


def control_file(name: str) -> Path:
    """Of the ControlNet or adapter shapeworld_NAME. Raises FileNotFoundError."""
    return _there(CONTROLS / f"shapeworld_{name}.safetensors")


def _there(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no shapeworld weights at {path}: train and export them (shapeworld/README.md)")
    return path


def _loader() -> ModuleType:
    """The loader's folder, imported as the host imports it: a package of its own."""
    spec = importlib.util.spec_from_file_location(
        "limelight_shapeworld", NODES / "__init__.py", submodule_search_locations=[]
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encode(clip: Any, text: str, **options: Any) -> list:
    """CONDITIONING of a prompt as CLIPTextEncode makes it, with ``options`` set on every entry."""
    import torch

    with torch.inference_mode():
        return [[rows, {**own, **options}] for rows, own in clip.encode_from_tokens_scheduled(clip.tokenize(text))]


def sample(
    model: Any, positive: list, negative: list, seed: int, sampler: str = "euler", latent: dict | None = None
) -> tuple[Any, float]:
    """One image, or what ``latent`` (LATENT) has. -> latent (1, 4, SIDE / 8, SIDE / 8), seconds of processor time."""
    import comfy.sample
    import torch

    given = latent or {"samples": torch.zeros(1, 4, SIDE // 8, SIDE // 8)}
    start, mask = given["samples"], given.get("noise_mask")
    noise = comfy.sample.prepare_noise(start, seed)
    common = {"noise_mask": mask, "disable_pbar": True, "seed": seed}
    with torch.inference_mode():
        started = time.process_time()
        made = comfy.sample.sample(model, noise, STEPS, SCALE, sampler, SCHEDULER, positive, negative, start, **common)
    return made, time.process_time() - started


def decode(vae: Any, latent: Any) -> np.ndarray:
    """-> the first image, uint8 (SIDE, SIDE, 3)."""
    return decode_all(vae, latent)[0]


def decode_all(vae: Any, latent: Any) -> np.ndarray:
    """-> uint8 (B, SIDE, SIDE, 3)."""
    import torch

    with torch.inference_mode():
        images = vae.decode(latent)
    return (images.clamp(0, 1) * 255).round().byte().cpu().numpy()
