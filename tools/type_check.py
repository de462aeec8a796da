"""Check the type hints with mypy: ``python -m limelight.tools.type_check [mypy's own arguments]``.

The repository's root is the package `limelight`, whatever its folder is called. mypy goes by the folder's name: it gets
a link of the right name under .cache/.
"""

from __future__ import annotations

import subprocess
import sys

from .server import ROOT, link


def main() -> int:
    """-> mypy's exit status; what it checks and how is in pyproject.toml."""
    place = ROOT / ".cache" / "types" / "limelight"
    place.parent.mkdir(parents=True, exist_ok=True)
    link(ROOT, place)
    return subprocess.run([sys.executable, "-m", "mypy", *sys.argv[1:]], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
