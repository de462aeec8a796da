"""The host imported into this Python process, for tests and benches that call its classes directly."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import tempfile
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .torchvision_ops import define_missing_operators

ROOT = Path(__file__).resolve().parent.parent


def host_path() -> Path:
    """-> the ComfyUI source folder: ``COMFYUI_PATH`` when set, otherwise the copy that ``dev.py`` unpacked.

    Raises FileNotFoundError when neither holds ComfyUI.
    """
    path = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".host" / "comfyui").resolve()
    if not (path / "comfy" / "sd.py").is_file():
        raise FileNotFoundError(
            f"no ComfyUI at {path}: `python dev.py test --collect-only` fetches a copy; or set COMFYUI_PATH to yours"
        )
    return path


def import_host(base_directory: str | os.PathLike | None = None, cpu: bool = True) -> Path:
    """Import the host's ``comfy``, ``nodes`` and ``execution`` modules; -> its path. A second call does nothing more.

    base_directory: where the host keeps input/, output/, temp/ and models/; a new temporary folder by default, so that
    nothing is written beside the host's source. cpu: run on the CPU even where CUDA is at hand.
    """
    path = host_path()
    if "comfy.model_management" in sys.modules:
        return path
    define_missing_operators()
    # In front: the current folder may be the repository, whose nodes/ would hide the host's nodes.py.
    sys.path.insert(0, str(path))
    from comfy.cli_args import args

    args.cpu = cpu
    args.base_directory = str(base_directory or tempfile.mkdtemp(prefix="limelight-host-"))
    # In this order: nodes.py puts comfy/ first on sys.path, and `utils` would then mean comfy/utils.py.
    for name in ("utils.extra_config", "utils.install_util", "nodes", "execution"):
        importlib.import_module(name)
    return path


def wait_for(coroutine: Coroutine) -> Any:
    """-> what the host's coroutine returns. In a thread of its own: the caller's may already run an event loop, as a
    notebook's and a browser driver's do."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
