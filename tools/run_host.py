"""Start the host's main.py: ``python -m limelight.tools.run_host COMFYUI_FOLDER [main.py's own flags]``.

Three things that main.py does not do by itself: it gets ``--cpu`` where there is no CUDA device, torchvision is made
importable beside a CPU-only torch, and the process ends when the one that started it is gone.
"""

from __future__ import annotations

import importlib.metadata
import os
import runpy
import shutil
import sys
import threading
from pathlib import Path

from .torchvision_ops import define_missing_operators


def has_cuda() -> bool:
    """Whether this torch and this machine have CUDA, found without importing torch (the host wants to do that)."""
    return "+cpu" not in importlib.metadata.version("torch") and shutil.which("nvidia-smi") is not None


def _end_with_parent() -> None:
    """The parent holds our standard input open; its end means that the parent is gone, however it went."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


def main() -> None:
    """See the module's text."""
    host, flags = Path(sys.argv[1]), sys.argv[2:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not has_cuda():
        define_missing_operators()
        flags = [*flags, *([] if "--cpu" in flags else ["--cpu"])]
    sys.argv = [str(host / "main.py"), *flags]
    sys.path.insert(0, str(host))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
