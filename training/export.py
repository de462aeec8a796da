"""Writing trained weights for users: safetensors with metadata, in the layouts that programs read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..guidance.errors import LimelightError
from ..models import files

ROOT = Path(__file__).resolve().parent.parent


def revision() -> str:
    """The git revision of this program, with a + where files were changed since; "" where there is no git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def metadata(**values: Any) -> dict[str, str]:
    """What a file says of itself: ``limelight.NAME`` keys, and the program's revision. None is left out."""
    known = {"revision": revision(), **values}
    return {"format": "pt"} | {f"limelight.{key}": str(value) for key, value in known.items() if value is not None}


def write(
    path: Path, state: Mapping[str, torch.Tensor], about: dict[str, str], dtype: torch.dtype | None = None
) -> Path:
    """Write a file of weights; it appears only when it is whole. Raises LimelightError for infinite values."""
    kept = {}
    for key, value in state.items():
        value = value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        if not value.isfinite().all():
            raise LimelightError(f"{path.name}: {key} has values that are not finite: the training went wrong.")
        kept[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, kept, about)
    return path


def write_diffusers(folder: Path, network: torch.nn.Module, about: dict[str, str]) -> Path:
    """Write a model of diffusers as its folder: config.json and weights, which also have the metadata."""
    network.save_config(folder)
    (folder / "limelight.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return write(folder / "diffusion_pytorch_model.safetensors", network.state_dict(), about)
