"""Checkpoints that are there whole or not at all.

A checkpoint is a folder ``checkpoint-00000500``. It is written under another name, brought to the disk, and renamed;
the file that says that it is complete is the last one written. Whatever ends the program, and whenever, the newest
folder with that file is a checkpoint to go on from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..guidance.errors import LimelightError

COMPLETE = "complete.json"
LATEST = "latest"
OPTION = "--resume_from_checkpoint"
_NAME = re.compile(r"checkpoint-(\d{8,})")


def complete(folder: Path) -> list[Path]:
    """The checkpoints in a training's folder, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted((path for path in found if (path / COMPLETE).is_file()), key=lambda path: int(path.name[11:]))


def find(folder: Path, wanted: str) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from and what was written into it. wanted: "latest", a name or a path. -> None: there is
    none yet, and "latest" was asked for. Raises LimelightError for a checkpoint that is not there or not whole."""
    if wanted == LATEST:
        there = complete(folder)
        if not there:
            return None
        path = there[-1]
    else:
        path = Path(wanted) if Path(wanted).is_dir() else folder / wanted
    if not (path / COMPLETE).is_file():
        names = ", ".join(one.name for one in complete(folder)) or "none"
        raise LimelightError(
            f"{OPTION}: {path} is no complete checkpoint. Complete ones in {folder}: {names}. Use one of them, or "
            f"{LATEST!r}."
        )
    return path, json.loads((path / COMPLETE).read_text(encoding="utf-8"))


def save(
    folder: Path,
    step: int,
    write: Callable[[Path], None],
    about: dict[str, Any],
    limit: int | None = None,
    main: bool = True,
    wait: Callable[[], None] = lambda: None,
) -> Path:
    """Write a checkpoint. Called by every process; ``main`` is the one that names, renames and deletes.

    write: puts everything into a folder, in every process. about: goes into the file that says that it is complete.
    limit: of checkpoints that are kept. wait: until all processes have come as far. Raises LimelightError if the main
    process cannot write; what was written is deleted then, and the checkpoint before it is still the latest.
    """
    final = folder / f"checkpoint-{step:08}"
    partial = folder / f".{final.name}.partial"
    if main:
        for leftover in folder.glob(".checkpoint-*.partial"):
            shutil.rmtree(leftover)
        partial.mkdir(parents=True)
    wait()
    try:
        write(partial)
        wait()
        if main:
            (partial / COMPLETE).write_text(json.dumps({"step": step, **about}), encoding="utf-8")
            _to_disk(partial)
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            _sync(folder)
    except Exception as error:
        if main:
            shutil.rmtree(partial, ignore_errors=True)
        raise LimelightError(
            f"checkpoint of step {step}: it could not be written to {folder} ({error}). Make room there, then go on "
            f"with {OPTION} {LATEST}."
        ) from error
    if main and limit is not None:
        for old in complete(folder)[:-limit]:
            (old / COMPLETE).unlink()  # first: a deletion that is cut short leaves no checkpoint that looks whole
            shutil.rmtree(old)
    wait()
    return final


def _to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk. Windows has no such thing for folders."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
