"""The nodes' texts for the front end's languages: ``python -m limelight.tools.locales [--translated]``.

Writes locales/en/nodeDefs.json from the schemas. The other languages are written by hand: what they lack, what is left
over and what was translated from other English is listed. ``--translated`` notes that the Chinese fits today's English.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .in_process import ROOT, import_host

FILE = ROOT / "locales" / "{language}" / "nodeDefs.json"
BY_HAND = "zh"
SOURCES = Path(__file__).with_name("locales_translated.json")
"""Which English (its `fingerprint`, by path) each text that was written by hand says."""

SYNTAX = "{}@|"
"""Characters that a text must not have: the front end's messages give them a meaning, in some of its versions only."""


def definitions(object_info: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Node descriptions as the host's /object_info has them, by id -> the content of an English nodeDefs.json.

    {node id: {"display_name", "description", "inputs": {id: {"name", "tooltip"}}, "outputs": {"0": ...}}}
    """
    found: dict[str, Any] = {}
    for name, info in object_info.items():
        groups = (info["input"].get(group, {}) for group in ("required", "optional"))
        inputs = {_key(key): _slot(key, *options) for group in groups for key, (_, *options) in group.items()}
        tooltips = info["output_tooltips"] or [None] * len(info["output"])
        outputs = zip(info["output_name"], tooltips, strict=True)
        found[_key(name)] = {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": inputs,
            "outputs": {str(i): {"name": label, "tooltip": tip or ""} for i, (label, tip) in enumerate(outputs)},
        }
    return found


def texts(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a nodeDefs.json with its path, such as "LimelightHighlightCanvas/inputs/width/tooltip"."""
    for key, value in content.items():
        place = f"{path}/{key}" if path else key
        if isinstance(value, str):
            yield place, value
        else:
            yield from texts(value, place)


def problems(english: Mapping[str, Any], other: Mapping[str, Any], sources: Mapping[str, str]) -> list[str]:
    """-> a line for every text of `other` that is missing, left over, empty, or a translation of earlier English."""
    wanted, found = dict(texts(english)), dict(texts(other))
    lines = [f"missing: {path} ({text})" for path, text in wanted.items() if path not in found]
    lines += [f"left over: {path}" for path in [*found, *sources] if path not in wanted]
    for path, text in found.items():
        if path in wanted and not text.strip():
            lines.append(f"empty: {path}")
        if path in wanted and sources.get(path) != fingerprint(wanted[path]):
            lines.append(f"its English is now: {path} ({wanted[path]})")
        if set(text) & set(SYNTAX):
            lines.append(f"has one of {SYNTAX}: {path}")
    return lines


def fingerprint(text: str) -> str:
    """-> eight characters that tell a text from its earlier wording."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def load(path: Path) -> dict[str, Any]:
    """A JSON file's content; {} where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def nodes_file(language: str) -> Path:
    """-> where the host looks for the nodes' texts in `language` ("en", "zh")."""
    return Path(str(FILE).format(language=language))


def main() -> int:
    """Read the command line, write the files; -> 1 while something is to be translated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--translated", action="store_true", help="the Chinese texts fit today's English")
    options = parser.parse_args()
    import_host()
    from ..nodes import NODES

    english = definitions({node.define_schema().node_id: node.GET_NODE_INFO_V1() for node in NODES})
    _write(nodes_file("en"), english)
    chinese = load(nodes_file(BY_HAND))
    if options.translated:
        present = dict(texts(chinese))
        _write(SOURCES, {path: fingerprint(text) for path, text in texts(english) if path in present})
    lines = problems(english, chinese, load(SOURCES))
    print("\n".join([f"{nodes_file('en').relative_to(ROOT)}: {len(english)} nodes", *lines]))
    return 1 if lines else 0


def _slot(name: str, options: Mapping[str, Any] | None = None) -> dict[str, str]:
    options = options or {}
    return {"name": options.get("display_name") or name, "tooltip": options.get("tooltip", "")}


def _key(name: str) -> str:
    """An id as the front end looks it up."""
    return name.replace(".", "_")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
