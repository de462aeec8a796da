"""Long commands with visible progress. Standard library only."""

from __future__ import annotations

import collections
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class StepFailed(RuntimeError):
    """A step of the set-up did not work; the message is meant for the person at the keyboard."""


def say(text: str) -> None:
    """One line to the person."""
    print(f"[limelight] {text}", flush=True)


def run_step(title: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
    """Run `command`, its output going to `log`; show the title, then every few seconds the time and what it does.

    Raises StepFailed with the end of the output when the command fails.
    """
    say(f"{title} ...")
    started = time.monotonic()
    tail: collections.deque[str] = collections.deque(maxlen=40)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            list(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            text=True,
            encoding="utf-8",
            errors="replace",
        )

        def read() -> None:
            for line in process.stdout:
                file.write(line)
                tail.append(line.rstrip())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while reader.is_alive():
                reader.join(timeout=5)
                if reader.is_alive():
                    print(f"    {time.monotonic() - started:4.0f} s  {_newest(tail)[:100]}", flush=True)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            reader.join()
    if code:
        raise StepFailed(f"{title}: failed (exit {code})\n" + "\n".join(tail) + f"\nAll of its output: {log}")


def _newest(lines: Sequence[str]) -> str:
    telling = [line for line in list(lines) if line.strip() and not line.startswith(("WARNING", "Requirement already"))]
    return telling[-1].strip() if telling else ""


def main_guard(function) -> int:
    """Run `function`; a StepFailed or Ctrl-C ends the program with a message and no traceback."""
    try:
        return int(function() or 0)
    except StepFailed as error:
        print(f"\n[limelight] {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("\n[limelight] stopped", file=sys.stderr, flush=True)
        return 130
