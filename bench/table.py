"""Printing a table and writing it as JSON: the form that every bench shares."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def arguments(name: str, description: str, count: int = 1, add=None) -> argparse.Namespace:
    """The options of a bench: --count, --seed, --out. `count`: its default; `add(parser)`: more options."""
    parser = argparse.ArgumentParser(prog=f"dev.py bench {name}", description=description)
    parser.add_argument("--count", type=int, default=count, help="how many cases or repeats (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="any whole number (default %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="JSON file (default %(default)s)")
    if add is not None:
        add(parser)
    return parser.parse_args()


def environment() -> dict[str, str | int]:
    """What the figures depend on."""
    import os

    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "device": device,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }


def command(name: str, count: int, seed: int) -> str:
    """The command that makes the table again."""
    return f"python dev.py bench {name} --count {count} --seed {seed}"


def write(name: str, rows: list[dict], command: str, out: Path, **environment_extra: object) -> None:
    """Print `rows` (each {"row": name, metric: value, ...}) and write {"name", "command", "environment", "rows"}."""
    show(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "name": name,
        "command": command,
        "environment": {**environment(), **environment_extra},
        "rows": rows,
    }
    out.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print(f"written: {out}")


def show(rows: list[dict]) -> None:
    """Print rows as aligned columns; a metric that a row lacks is left blank."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        first, *others = (f"{line[0]:<{widths[0]}}", *(f"{t:>{w}}" for t, w in zip(line[1:], widths[1:], strict=True)))
        print("  ".join((first, *others)))


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
