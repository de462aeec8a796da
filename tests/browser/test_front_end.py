"""The example workflows, opened in the host's own front ends by a real browser."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from browser_pages import front_end_of, open_graph, screenshot

from limelight.bench.workflow import load_workflow, to_prompt
from limelight.tools.browser import open_front_end
from limelight.tools.in_process import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
FILES = ("controlnet/gazefusion-sd21.safetensors", "../input/example.png")  # that no workflow says where to get
SEEN = 700  # milliseconds after which the newer front end has marked the nodes whose files are not there


@contextlib.contextmanager
def files_of_workflows(base: Path):
    """Empty files by the names of all that the workflows load: opening a graph reads none of them."""
    nodes = [node for path in WORKFLOWS for node in load_workflow(path)["nodes"]]
    declared = [model for node in nodes for model in node["properties"].get("models", ())]
    names = {f"{model['directory']}/{model['name']}" for model in declared} | {*FILES}
    made = [path for path in sorted(base / "models" / name for name in names) if not path.exists()]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    try:
        yield
    finally:
        for path in made:
            path.unlink()


@pytest.fixture(scope="module", params=["classic-1.32", "vue-1.58"])
def front_end(request):
    """-> the server, and whether to open it with Nodes 2.0."""
    return front_end_of(request)


@pytest.fixture(scope="module")
def page(front_end, chromium):
    """The front end of a user who has all that the workflows load."""
    server, vue = front_end
    with files_of_workflows(server.base):
        tab = open_front_end(chromium, server, vue=vue)
        yield tab
        tab.close()


# Pairs of nodes that lie over each other.
OVERLAPS = """() => app.graph.nodes.flatMap((a, i) => app.graph.nodes.slice(i + 1).filter(b => {
  const [one, other] = [a.boundingRect, b.boundingRect]
  return [0, 1].every(k => one[k] < other[k] + other[k + 2] && other[k] < one[k] + one[k + 2])
}).map(b => [a.title, b.title]))"""
# What the front ends say of a graph that lacks something: a dialog (1.32), a notice with a button (1.45, 1.58).
NOTICE = ".p-dialog:has-text('missing'), button:text-matches('see errors|view details|missing', 'i')"


def broken_nodes(page) -> list[str]:
    """-> the open graph's nodes that the front end has no definition for, or no file; notes, its own, need none."""
    page.wait_for_timeout(SEEN)
    broken = "n => !n.isVirtualNode && (n.has_errors || !n.constructor.nodeData)"
    return page.evaluate(f"() => app.graph.nodes.filter({broken}).map(n => n.type)")


def test_front_end_knows_the_nodes(page, front_end):
    info = front_end[0].client.object_info()
    ours = [key for key, value in info.items() if value["python_module"] == "custom_nodes.limelight"]
    known = page.evaluate("ids => ids.filter(id => id in LiteGraph.registered_node_types)", ours)
    assert ours and known == ours
    assert not page.problems


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_opens(page, front_end, path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    prompt = open_graph(page, graph)
    assert broken_nodes(page) == []
    assert page.locator(NOTICE).count() == 0
    screenshot(page, f"{path.stem}-{'vue' if front_end[1] else 'classic'}")
    assert page.evaluate(OVERLAPS) == []
    types = [node["type"] for node in graph["nodes"]]
    assert sorted(page.evaluate("() => app.graph.nodes.map(node => node.type)")) == sorted(types)
    ours = {name for name in types if name.startswith("Limelight")}
    assert ours and ours <= {node["class_type"] for node in prompt.values()}
    # The benches and the demo convert the same file without a browser: both must queue the same prompt, but for
    # widgets of the front end's own that the host does not know (the text of Preview Any).
    info = front_end[0].client.object_info()
    queued = {}
    for key, node in prompt.items():
        known = {name for group in info[node["class_type"]]["input"].values() for name in group}
        inputs = {name: value for name, value in node["inputs"].items() if name in known}
        queued[key] = {"class_type": node["class_type"], "inputs": inputs}
    assert to_prompt(load_workflow(path), info) == queued
    assert not page.problems


def test_a_missing_node_would_be_noticed(page):
    node = {"id": 1, "type": "NoSuchNode", "pos": [0, 0], "size": [100, 60], "flags": {}, "order": 0, "mode": 0}
    node |= {"inputs": [], "outputs": [], "properties": {}, "widgets_values": []}
    open_graph(page, {"last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": [], "version": 0.4})
    assert broken_nodes(page) == ["NoSuchNode"]
    if page.evaluate("window.__COMFYUI_FRONTEND_VERSION__") != "1.45.21":  # it marks the node and says no more
        assert page.locator(NOTICE).count() == 1
    page.keyboard.press("Escape")  # the older front end says so in a dialog


def test_missing_models_are_offered_for_download(page, front_end):
    graph = load_workflow(ROOT / "workflows" / "product_background_sd2.json")
    declared = [(node, model) for node in graph["nodes"] for model in node["properties"].get("models", ())]
    for node, model in declared:
        at = node["widgets_values"].index(model["name"])
        model["name"] = node["widgets_values"][at] = f"not-there-{Path(model['name']).name}"
    open_graph(page, graph)
    notice = page.locator(NOTICE).last
    notice.wait_for()
    if notice.evaluate("element => element.tagName") == "BUTTON":
        notice.click()
    assert len(declared) == 2
    for _, model in declared:
        page.get_by_text(model["name"]).last.wait_for()
    assert page.get_by_role("button", name="Download").count() >= len(declared)
    screenshot(page, f"missing-models-{'vue' if front_end[1] else 'classic'}")
