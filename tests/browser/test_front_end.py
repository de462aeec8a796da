"""The example workflows, opened in the host's own front end by a real browser."""

from __future__ import annotations

import json
import shutil

import pytest

from limelight.bench.workflow import load_workflow, to_prompt
from limelight.tools.in_process import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
SCREENSHOTS = ROOT / ".cache" / "screenshots"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def page(server, skip_or_fail):
    """The host's front end, loaded, in headless Chromium; `page.problems` collects what the pack's own files say."""
    from playwright.sync_api import sync_playwright

    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    if not any(found):
        skip_or_fail("the front-end test needs Chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=next(filter(None, found)), args=FLAGS)
        tab = browser.new_page(viewport={"width": 1600, "height": 900})
        tab.set_default_timeout(120_000)
        # Nothing but the host is reached: the front end would otherwise wait for services of the outside world.
        tab.route("**/*", lambda route: route.continue_() if server.url in route.request.url else route.abort())
        settings = {
            "Comfy.TutorialCompleted": True,
            "Comfy.InstalledVersion": "1.32.9",
            "Comfy.Workflow.Persist": False,
        }
        server.client.request("/settings", settings)
        tab.problems = []
        tab.on("pageerror", lambda error: tab.problems.append(str(error)))
        tab.goto(server.url)
        tab.wait_for_function("() => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.KSampler")
        yield tab
        browser.close()


# Puts every node of the open graph into view.
SHOW_ALL = """() => {
  const boxes = app.graph.nodes.map(node => node.boundingRect)
  const left = Math.min(...boxes.map(box => box[0])), top = Math.min(...boxes.map(box => box[1]))
  const right = Math.max(...boxes.map(box => box[0] + box[2])), bottom = Math.max(...boxes.map(box => box[1] + box[3]))
  app.canvas.ds.fitToBounds([left, top, right - left, bottom - top], { zoom: 0.9 })
  app.canvas.setDirty(true, true)
}"""
DIALOG = ".p-dialog:has-text('missing')"


def open_graph(page, graph: dict) -> dict:
    """Open a saved graph as the front end's own "Open" does; -> the API prompt that it would queue."""
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    page.wait_for_timeout(1500)
    page.evaluate(SHOW_ALL)
    page.wait_for_timeout(500)
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def broken_nodes(page) -> list[str]:
    """-> the open graph's nodes that the front end has no definition for."""
    return page.evaluate("() => app.graph.nodes.filter(n => n.has_errors || !n.constructor.nodeData).map(n => n.type)")


def test_front_end_knows_the_nodes(page, server):
    ours = [k for k, v in server.client.object_info().items() if v["python_module"] == "custom_nodes.limelight"]
    known = page.evaluate("ids => ids.filter(id => id in LiteGraph.registered_node_types)", ours)
    assert ours and known == ours
    assert not page.problems


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_opens(page, server, path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    prompt = open_graph(page, graph)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{path.stem}.png")
    assert page.locator(DIALOG).count() == 0
    assert broken_nodes(page) == []
    types = [node["type"] for node in graph["nodes"]]
    assert sorted(page.evaluate("() => app.graph.nodes.map(node => node.type)")) == sorted(types)
    ours = {name for name in types if name.startswith("Limelight")}
    assert ours and ours <= {node["class_type"] for node in prompt.values()}
    # The benches and the demo convert the same file without a browser: both must queue the same prompt.
    converted = to_prompt(load_workflow(path), server.client.object_info())
    assert converted == {key: {"class_type": n["class_type"], "inputs": n["inputs"]} for key, n in prompt.items()}
    assert not page.problems


def test_a_missing_node_would_be_noticed(page):
    node = {"id": 1, "type": "NoSuchNode", "pos": [0, 0], "size": [100, 60], "flags": {}, "order": 0, "mode": 0}
    node |= {"inputs": [], "outputs": [], "properties": {}, "widgets_values": []}
    open_graph(page, {"last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": [], "version": 0.4})
    assert broken_nodes(page) == ["NoSuchNode"]
    assert page.locator(DIALOG).count() == 1
