"""Long commands with visible progress. Standard library only."""

from __future__ import annotations

import collections
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class StepFailed(RuntimeError):
    """A step of the set-up did not work; the message is meant for the person at the keyboard."""


def say(text: str) -> None:
    """One line to the person."""
    print(f"[limelight] {text}", flush=True)


def run_step(title: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
    """Run `command`, its output going to `log`; show the title, then the newest line of output every few seconds.

    Raises StepFailed with the end of the output when the command fails.
    """
    say(f"{title} ...")
    started = shown = time.monotonic()
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
        try:
            for line in process.stdout:
                file.write(line)
                tail.append(line.rstrip())
                if time.monotonic() - shown > 3 and not line.startswith("Requirement already satisfied"):
                    shown = time.monotonic()
                    print(f"    {shown - started:4.0f} s  {line.strip()[:100]}", flush=True)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code:
        raise StepFailed(f"{title}: failed (exit {code})\n" + "\n".join(tail) + f"\nAll of its output: {log}")


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
