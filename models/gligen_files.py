"""GLIGEN files on disk: which of a folder's files to offer, and loading them without running what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from pickle import UnpicklingError
from typing import Any

import torch

from ..guidance.errors import LimelightError

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
    import comfy.utils

    try:
        with _foreign_classes_as_nothing(path):
            return comfy.utils.load_torch_file(str(path), safe_load=True)
    except (UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise LimelightError(
            f"gligen_name: {path.name} cannot be read as weights ({str(error).splitlines()[0][:200]}). Download it "
            "again; of the original .bin, ComfyUI's gligen_sd14_textbox_pruned.safetensors is a smaller form."
        ) from error
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise LimelightError(
                f"gligen_name: {path.name} is not a safetensors file ({error}). Download it again."
            ) from error
        raise


class _Nothing(dict):
    """Stands in for an object of a class that is not needed. Takes anything and does nothing."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass


@contextmanager
def _foreign_classes_as_nothing(path: Path) -> Iterator[None]:
    """The original checkpoints also hold their settings as objects of a configuration library, which a load of weights
    only refuses. Within the block such objects of this file are skipped: their classes are neither imported nor run."""
    names = []
    if path.suffix not in (".safetensors", ".sft") and hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        try:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        except ValueError:  # an old-style file: load it strictly
            pass
    if not names:
        yield
        return
    with torch.serialization.safe_globals([(_Nothing, name) for name in names]):
        yield
