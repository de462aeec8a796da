"""Weights on disk: reading them without running what is in the file, and writing them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from pickle import UnpicklingError
from typing import Any

import torch

from ..guidance.errors import LimelightError

# parts of a diffusers folder that hold weights but no UNet or ControlNet
OTHER_PARTS = {"vae", "text_encoder", "text_encoder_2", "image_encoder", "safety_checker"}
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)$")


def offered(names: Iterable[str], without: Iterable[str] = OTHER_PARTS) -> list[str]:
    """Of the files in a folder of models, those that may hold what is wanted: none from the parts of a diffusers folder
    that hold something else, and of a file in several pieces the first."""
    without = set(without)
    return [name for name in names if not without & {*PurePath(name).parts[:-1]} and _piece(name) <= 1]


def read_pieces(path: Path, name: str, remedy: str = "") -> Any:
    """As `read`, all pieces of a file in several together."""
    found = _SHARD.fullmatch(path.name)
    if not found:
        return read(path, name, remedy)
    stem, _, count, ending = found.groups()
    state: dict[str, torch.Tensor] = {}
    for number in range(1, int(count) + 1):
        piece = path.with_name(f"{stem}-{number:05}-of-{count}{ending}")
        if not piece.is_file():
            raise LimelightError(
                f"{name}: {path.name} is one of {int(count)} pieces, and {piece.name} is not beside it. Put all "
                "pieces into one folder."
            )
        state.update(read(piece, name, remedy))
    return state


def _piece(name: str) -> int:
    """Which piece of a file in several this is, from 1; 0: not a piece."""
    found = _SHARD.fullmatch(name)
    return int(found[2]) if found else 0


def read(path: Path, name: str, remedy: str = "") -> Any:
    """What a file of weights holds; nothing but tensors and plain values is ever built.

    name: of the node's input, for errors. remedy: what else than another download could help.
    """
    import comfy.utils

    with _explained(path, name, remedy), _foreign_classes_as_nothing(path):
        return comfy.utils.load_torch_file(str(path), safe_load=True)


def mapped(path: Path, name: str) -> Any:
    """As `read`, without the host, and with tensors that stay on the disk until they are used."""
    with _explained(path, name, ""):
        if path.suffix in (".safetensors", ".sft"):
            import safetensors.torch

            return safetensors.torch.load_file(path)
        with _foreign_classes_as_nothing(path):
            # files in torch's old form, which are no archives, cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def write_whole(path: Path, state: dict[str, torch.Tensor], about: dict[str, str]) -> None:
    """Write tensors, each contiguous, as safetensors with metadata. The file appears, or takes the place of the one of
    its name, only when it is complete; where writing fails, nothing is left of it."""
    from safetensors.torch import save_file

    part = path.with_name(f"{path.name}.part")
    try:
        save_file(state, part, about)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _explained(path: Path, name: str, remedy: str) -> Iterator[None]:
    """Errors of a file that is no file of weights, or not all of one, in words."""
    try:
        yield
    except (UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
        reason = (str(error) or "it ends too early").splitlines()[0][:200]
        raise LimelightError(
            f"{name}: {path.name} cannot be read as weights ({reason}). Download it again{remedy and '; '}{remedy}."
        ) from error
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise LimelightError(
                f"{name}: {path.name} is not a safetensors file ({error}). Download it again."
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
    """Published checkpoints may also hold their settings as objects of a configuration library, which a load of weights
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
