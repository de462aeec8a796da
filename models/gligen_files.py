"""GLIGEN files on disk: loading them without running what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import files


def load_state(path: str | Path) -> Any:
    """The contents of a file, all its pieces together. Nothing but tensors and plain values is ever built."""
    smaller = "of the original .bin, ComfyUI's gligen_sd14_textbox_pruned.safetensors is a smaller form"
    return files.read_pieces(Path(path), "gligen_name", smaller)
