"""Weights on disk: reading them without running what is in the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ..guidance.errors import LimelightError


def read(path: Path, name: str, remedy: str = "") -> Any:
    """What a file of weights holds; nothing but tensors and plain values is ever built.

    name: of the node's input, for errors. remedy: what else than another download could help.
    """
    import comfy.utils

    try:
        with _foreign_classes_as_nothing(path):
            return comfy.utils.load_torch_file(str(path), safe_load=True)
    except (UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise LimelightError(
            f"{name}: {path.name} cannot be read as weights ({str(error).splitlines()[0][:200]}). Download it again"
            f"{remedy and '; '}{remedy}."
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
