"""Node ids as the Manager's scanner finds them: read from the source, nothing imported.

It lists a V3 node only where the class has `ComfyNode` or `io.ComfyNode` among its own bases (one more class between
and it is missed), under the literal `node_id` of its `define_schema`, or else under the class's name.
"""

from __future__ import annotations

import ast
from pathlib import Path

BASES = {"ComfyNode", "io.ComfyNode"}


def find_nodes(folder: Path) -> set[str]:
    """-> the ids in all Python files below a folder."""
    found = set()
    for path in sorted(folder.rglob("*.py")):
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(item, ast.ClassDef) and BASES & {ast.unparse(base) for base in item.bases}:
                found.add(node_id(item))
    return found


def node_id(node: ast.ClassDef) -> str:
    schemas = (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "define_schema")
    calls = (call for schema in schemas for call in ast.walk(schema) if isinstance(call, ast.Call))
    ids = (keyword.value for call in calls for keyword in call.keywords if keyword.arg == "node_id")
    literal = next((value.value for value in ids if isinstance(value, ast.Constant)), None)
    return literal if isinstance(literal, str) else node.name
