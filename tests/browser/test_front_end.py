"""The example workflows, opened in the host's own front end by a real browser."""

from __future__ import annotations

import json

import pytest
from browser_pages import open_graph, screenshot

from limelight.bench.workflow import load_workflow, to_prompt
from limelight.tools.browser import open_front_end
from limelight.tools.in_process import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def page(server, chromium):
    tab = open_front_end(chromium, server)
    yield tab
    tab.close()


# Pairs of nodes that lie over each other.
OVERLAPS = """() => app.graph.nodes.flatMap((a, i) => app.graph.nodes.slice(i + 1).filter(b => {
  const [one, other] = [a.boundingRect, b.boundingRect]
  return [0, 1].every(k => one[k] < other[k] + other[k + 2] && other[k] < one[k] + one[k + 2])
}).map(b => [a.title, b.title]))"""
DIALOG = ".p-dialog:has-text('missing')"


def broken_nodes(page) -> list[str]:
    """-> the open graph's nodes that the front end has no definition for; notes, which are its own, need none."""
    broken = "n => !n.isVirtualNode && (n.has_errors || !n.constructor.nodeData)"
    return page.evaluate(f"() => app.graph.nodes.filter({broken}).map(n => n.type)")


def test_front_end_knows_the_nodes(page, server):
    ours = [k for k, v in server.client.object_info().items() if v["python_module"] == "custom_nodes.limelight"]
    known = page.evaluate("ids => ids.filter(id => id in LiteGraph.registered_node_types)", ours)
    assert ours and known == ours
    assert not page.problems


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_opens(page, server, path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    prompt = open_graph(page, graph)
    screenshot(page, path.stem)
    assert page.locator(DIALOG).count() == 0
    assert broken_nodes(page) == []
    assert page.evaluate(OVERLAPS) == []
    types = [node["type"] for node in graph["nodes"]]
    assert sorted(page.evaluate("() => app.graph.nodes.map(node => node.type)")) == sorted(types)
    ours = {name for name in types if name.startswith("Limelight")}
    assert ours and ours <= {node["class_type"] for node in prompt.values()}
    # The benches and the demo convert the same file without a browser: both must queue the same prompt, but for
    # widgets of the front end's own that the host does not know (the text of Preview Any).
    info = server.client.object_info()
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
    assert page.locator(DIALOG).count() == 1
