"""Fill the tables of README.md from bench/results: ``python -m limelight.tools.readme_tables``.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``. Nobody types a number into the README.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_MARKED = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(name: str) -> str:
    """-> bench/results/NAME.json as a Markdown table with the command that made it. A row of two words is a detail of
    another ("limelight euler") and left out."""
    result = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    rows = [row for row in result["rows"] if " " not in row["row"]]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_text(row.get(c)) for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n`{result['command']}`\n"


def filled(readme: str) -> str:
    """-> the README's text with every marked table renewed."""
    return _MARKED.sub(lambda match: match[1] + markdown(match[2]) + match[3], readme)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


if __name__ == "__main__":
    page = ROOT / "README.md"
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
