"""Everything a fresh machine needs, in one command: ``python dev.py demo | serve | test | bench NAME``.

Standard library only; Linux, macOS and Windows; Python 3.10 or newer. The first run makes .venv/ and fetches ComfyUI
(COMFYUI_PATH names another copy); later runs reuse both and start in seconds.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 - an older Python gets this far and deserves the reason
    sys.exit(f"Limelight needs Python 3.10 or newer; this is {sys.version.split()[0]}")

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH, where set, leaves this folder out

from bench.workflow import shapeworld_copies
from tools.console import StepFailed, main_guard, say
from tools.environment import ROOT, prepare
from tools.server import BASE, HostServer


def demo(options: argparse.Namespace, rest: list[str]) -> int:
    """Generate each demo prompt without and with its highlights, and print what moved."""
    python, host = prepare()
    with HostServer(python, host) as server:
        return _module(python, host, "limelight.bench.demo", ["--host", server.url, *rest])


def serve(options: argparse.Namespace, rest: list[str]) -> int:
    """Serve ComfyUI with the pack until Ctrl-C."""
    python, host = prepare()
    shapeworld_copies(ROOT / "workflows", BASE)
    with HostServer(python, host, port=options.port, flags=rest) as server:
        say(f"ComfyUI with Limelight: {server.url}  (Ctrl-C stops it; its log: {server.log_path.relative_to(ROOT)})")
        say("Workflows (left) lists each example ready to run on shapeworld.")
        while server.running():
            time.sleep(0.5)
        raise StepFailed(f"the host ended by itself:\n{server.log()[-4000:]}")


def test(options: argparse.Namespace, rest: list[str]) -> int:
    """Lint, types, then pytest; --host DIR takes another ComfyUI checkout; further arguments go to pytest."""
    python, host = prepare(options.host)
    for command in (["check", "."], ["format", "--check", "."]):
        if subprocess.run([str(python), "-m", "ruff", *command], cwd=ROOT).returncode:
            return 1
    return _module(python, host, "limelight.tools.type_check", []) or _module(python, host, "pytest", rest)


def bench(options: argparse.Namespace, rest: list[str]) -> int:
    """Print one table and write it as JSON."""
    python, host = prepare()
    module = options.name.replace("-", "_")
    if not (ROOT / "bench" / f"{module}.py").is_file():
        programs = [path.stem for path in (ROOT / "bench").glob("*.py") if "def main(" in path.read_text("utf-8")]
        known = sorted(stem.replace("_", "-") for stem in programs if stem != "demo")
        raise StepFailed(f"no bench named {options.name!r}; bench/ has: {', '.join(known)}")
    return _module(python, host, f"limelight.bench.{module}", rest)


def _module(python, host, module: str, arguments: list[str]) -> int:
    """`python -m module arguments` with the host's folder in COMFYUI_PATH and the current folder off sys.path."""
    env = {**os.environ, "COMFYUI_PATH": str(host), "PYTHONSAFEPATH": "1"}
    return subprocess.run([str(python), "-m", module, *arguments], cwd=ROOT, env=env).returncode


def main() -> int:
    """Read the command line and run the command."""
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo | serve | test | bench")
    commands.add_parser("demo", help=demo.__doc__).set_defaults(run=demo)
    server = commands.add_parser("serve", help=serve.__doc__)
    server.add_argument("--port", type=int, default=8188, help="default 8188; 0 takes a free one")
    server.set_defaults(run=serve)
    tests = commands.add_parser("test", help=test.__doc__, add_help=False, allow_abbrev=False)
    tests.add_argument("--host", metavar="DIR")
    tests.set_defaults(run=test)
    table = commands.add_parser("bench", help=bench.__doc__)
    table.add_argument("name", help="placement, guided-step, ...; then [--count N] [--seed S] [--out FILE]")
    table.set_defaults(run=bench)
    options, rest = parser.parse_known_args()
    # A polite kill must also run the clean-up that stops the host.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return main_guard(lambda: options.run(options, rest))


if __name__ == "__main__":
    sys.exit(main())
