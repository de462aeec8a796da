"""GLIGEN files on disk: which of a folder's files to offer, and loading them without running what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import torch

from ..guidance.errors import LimelightError
from . import files

# parts of a diffusers folder that hold weights but no GLIGEN
OTHER_PARTS = {"vae", "text_encoder", "text_encoder_2", "image_encoder", "safety_checker"}
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)$")


def offered(names: Iterable[str]) -> list[str]:
    """Of the files in the GLIGEN folders, those that may hold GLIGEN: of a diffusers folder the UNet's, and of a file
    in several pieces the first."""
    return [name for name in names if not OTHER_PARTS & {*PurePath(name).parts[:-1]} and _piece(name) <= 1]


def load_state(path: str | Path) -> Any:
    """The contents of a file, all its pieces together. Nothing but tensors and plain values is ever built."""
    path = Path(path)
    if not _piece(path.name):
        return _load(path)
    stem, _, count, ending = _SHARD.fullmatch(path.name).groups()
    state: dict[str, torch.Tensor] = {}
    for number in range(1, int(count) + 1):
        piece = path.with_name(f"{stem}-{number:05}-of-{count}{ending}")
        if not piece.is_file():
            raise LimelightError(
                f"gligen_name: {path.name} is one of {int(count)} pieces, and {piece.name} is not beside it. Put all "
                "pieces into one folder."
            )
        state.update(_load(piece))
    return state


def _piece(name: str) -> int:
    """Which piece of a file in several this is, from 1; 0: not a piece."""
    found = _SHARD.fullmatch(name)
    return int(found[2]) if found else 0


def _load(path: Path) -> Any:
    smaller = "of the original .bin, ComfyUI's gligen_sd14_textbox_pruned.safetensors is a smaller form"
    return files.read(path, "gligen_name", smaller)
