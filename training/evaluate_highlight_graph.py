"""A user's workflow -> the graph that makes one evaluated image: highlights, prompt, seed and size replaced."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bench.workflow import load_workflow, to_prompt
from ..guidance.regions.document import Document
from ..tools.console import StepFailed

Graph = dict[str, dict[str, Any]]

SAVERS = ("SaveImage", "PreviewImage")
_OURS = "LimelightHighlight"
_SOURCE = "evaluated highlights"  # id of the node that gives the document


def read_workflow(path: Path) -> dict[str, Any]:
    """The file's JSON. Raises StepFailed if it has none."""
    try:
        return load_workflow(path)
    except (OSError, ValueError) as error:
        raise StepFailed(f"--workflow {path}: cannot be read ({error})") from None


def api_graph(workflow: dict[str, Any], object_info: Mapping[str, Any], output: str | None = None) -> Graph:
    """A workflow as the front end saves it, or in API format -> the API graph of one image.

    output: id or file name prefix of the SaveImage to keep; by default the only one, or the one with the most Limelight
    nodes behind it. It becomes a preview, so that nothing is left in the host's output folder. Raises StepFailed.
    """
    try:
        graph = to_prompt(workflow, object_info) if "nodes" in workflow else workflow
        classes = {key: node["class_type"] for key, node in graph.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StepFailed(
            f"the workflow cannot be used ({type(error).__name__}: {error}). Save it again in ComfyUI with Workflow > "
            "Export (API), on a host that has all of its nodes."
        ) from None
    savers = [key for key, kind in classes.items() if kind in SAVERS]
    if output is not None:
        savers = [key for key in savers if output in (key, graph[key]["inputs"].get("filename_prefix"))]
    behind = {key: sum(classes[one].startswith(_OURS) for one in _upstream(graph, key)) for key in savers}
    best = [key for key, count in behind.items() if count == max(behind.values())]
    if len(best) != 1:
        found = ", ".join(f"{key} ({graph[key]['inputs'].get('filename_prefix', classes[key])})" for key in best)
        raise StepFailed(
            f"the workflow: found {found or 'no SaveImage'}; expected one node that saves the image to score. "
            "Name it with --output (its id or file name prefix)."
        )
    kept = {key: copy.deepcopy(graph[key]) for key in _upstream(graph, best[0])}
    kept[best[0]] = {"class_type": "PreviewImage", "inputs": {"images": graph[best[0]]["inputs"]["images"]}}
    if not _readers(kept):
        raise StepFailed(
            "the workflow: no node behind the saved image takes HIGHLIGHTS. Expected a Highlight Prompt; "
            "workflows/highlight_basic.json is an example."
        )
    return kept


def set_inputs(graph: Graph, values: Sequence[str]) -> None:
    """Sets ``KSampler.steps=50`` and the like: a node type or id, an input, a JSON value or text. In place."""
    for text in values:
        target, equals, value = text.partition("=")
        kind, dot, name = target.strip().rpartition(".")
        nodes = [n for key, n in graph.items() if kind in (key, n["class_type"]) and name in n["inputs"]]
        if not (equals and dot and nodes):
            known = ", ".join(sorted({f"{n['class_type']}.{k}" for n in graph.values() for k in n["inputs"]}))
            raise StepFailed(f"--set {text}: expected NODE.INPUT=VALUE with one of {known}")
        for node in nodes:
            node["inputs"][name] = _value(value.strip())


def of_item(graph: Graph, document: Document, prompt: str, seed: int, size: tuple[int, int]) -> Graph:
    """A copy of the graph for one image.

    Every node that takes highlights gets ``document``, and the prompt in place of its text; the text of other nodes is
    replaced where it was the same (the encoder before a Highlight Bind). Every seed becomes ``seed``, every empty
    latent one of ``size`` (width, height).
    """
    graph = copy.deepcopy(graph)
    readers = _readers(graph)
    old = {_text(graph, node["inputs"]["text"]) for node in readers if "text" in node["inputs"]} - {""}
    graph[_SOURCE] = {"class_type": "LimelightHighlightFromJSON", "inputs": {"text": document.to_json()}}
    for node in graph.values():
        inputs = node["inputs"]
        for name, value in inputs.items():
            if isinstance(value, str) and value in old:
                inputs[name] = prompt
            elif name in ("seed", "noise_seed"):
                inputs[name] = seed
        if node in readers:
            inputs |= {"highlights": [_SOURCE, 0]} | ({"text": prompt} if "text" in inputs else {})
        if {"width", "height", "batch_size"} <= inputs.keys():
            inputs |= {"width": size[0], "height": size[1], "batch_size": 1}
    (end,) = (key for key, node in graph.items() if node["class_type"] == "PreviewImage")
    return {key: graph[key] for key in _upstream(graph, end)}


def _readers(graph: Graph) -> list[dict[str, Any]]:
    """Nodes with a connected HIGHLIGHTS input that are not themselves links of a chain of sources."""
    return [
        node
        for node in graph.values()
        if isinstance(node["inputs"].get("highlights"), list) and not node["class_type"].startswith(f"{_OURS}From")
    ]


def _upstream(graph: Graph, end: str) -> list[str]:
    """``end`` and every node that it depends on, in the graph's order."""
    found, waiting = set(), [end]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            links = [value for value in graph[key]["inputs"].values() if isinstance(value, list)]
            waiting += [link[0] for link in links if len(link) == 2 and link[0] in graph]
    return [key for key in graph if key in found]


def _text(graph: Graph, value: Any) -> str:
    """A text input's words, through a link to a node that holds them."""
    if isinstance(value, list):
        texts = [text for text in graph[value[0]]["inputs"].values() if isinstance(text, str)]
        return texts[0] if len(texts) == 1 else ""
    return value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
