"""Saved workflows as the front end writes them -> prompts of the host's HTTP API."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
MUTED, BYPASSED = 2, 4


def widget_names(node_info: dict) -> list[str]:
    """Names of a node type's widgets in the order of ``widgets_values``; "" for the value after a seed."""
    names = []
    for group in ("required", "optional"):
        for name, (kind, *rest) in node_info["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            if options.get("forceInput") or not (isinstance(kind, list) or kind in WIDGET_TYPES):
                continue
            names.append(name)
            if options.get("control_after_generate"):
                names.append("")
    return names


def to_prompt(workflow: dict, object_info: dict) -> dict[str, dict]:
    """-> API prompt by node id. Raises ValueError for node types that the host does not know."""
    nodes = [n for n in workflow["nodes"] if n.get("mode", 0) not in (MUTED, BYPASSED) and n["type"] != "MarkdownNote"]
    unknown = sorted({node["type"] for node in nodes} - object_info.keys())
    if unknown:
        raise ValueError(f"the host does not know the node types {unknown}")
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in nodes:
        names = widget_names(object_info[node["type"]])
        values = node.get("widgets_values") or []
        if len(names) != len(values):
            raise ValueError(f"node {node['id']} ({node['type']}): widgets {names} but values {values}")
        inputs: dict[str, Any] = {name: value for name, value in zip(names, values, strict=True) if name}
        for slot in node.get("inputs", []):
            if slot.get("link") is not None:
                inputs[slot["name"]] = sources[slot["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def load_workflow(path: Path) -> dict:
    """A workflow as the front end saved it."""
    return json.loads(path.read_text(encoding="utf-8"))


def on_shapeworld(workflow: dict, side: int = 128) -> dict:
    """The workflow with shapeworld's loader for the checkpoint loader, and empty latents and canvases of its size."""
    workflow = copy.deepcopy(workflow)
    for node in workflow["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            node.update(type="ShapeworldLoader", widgets_values=[], properties={})
        elif node["type"] == "EmptyLatentImage":
            node["widgets_values"][:2] = [side, side]
        elif node["type"] == "LimelightHighlightCanvas":
            node["widgets_values"][1:] = [side, side]
    return workflow


def of_type(prompt: dict[str, dict], class_type: str) -> list[dict]:
    """The nodes of one type, in id order."""
    return [prompt[key] for key in sorted(prompt, key=int) if prompt[key]["class_type"] == class_type]


def shapeworld_copies(folder: Path, base: Path) -> None:
    """Put a copy of every workflow of ``folder``, ready for shapeworld, among the saved workflows of a host's base
    directory, so that the front end lists it and *Run* works without a checkpoint."""
    saved = base / "user" / "default" / "workflows"
    saved.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.json")):
        text = json.dumps(on_shapeworld(load_workflow(path)))
        (saved / f"{path.stem}_shapeworld.json").write_text(text, encoding="utf-8")
