"""The Saliency Editor in the host's front end: a new node, drawn in, queued; then saved and loaded."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from browser_pages import SHOW_ALL, Hand, prompt_of, screenshot, settle

EXAMPLE = {"x": 0.8, "y": 0.6, "sx": 0.2, "sy": 0.15, "angle": 0, "amplitude": 0.7, "mode": "attract"}
ADD = """() => {
  app.graph.clear()
  const editor = LiteGraph.createNode("LimelightSaliencyEditor"), shown = LiteGraph.createNode("MaskPreview")
  shown.pos = [editor.pos[0] + editor.size[0] + 60, editor.pos[1]]
  editor.widgets.find(widget => widget.name === "width").value = 256
  editor.widgets.find(widget => widget.name === "height").value = 128
  app.graph.add(editor)
  app.graph.add(shown)
  editor.connect(0, shown, 0)
  return String(editor.id)
}"""
SAVED = "() => JSON.parse(JSON.stringify(app.rootGraph?.serialize() ?? app.graph.serialize()))"


def blobs(prompt: dict, node: str) -> list[dict]:
    return json.loads(prompt[node]["inputs"]["blobs"])["blobs"]


# Not in Nodes 2.0 of the older front end: it at times draws a new node larger than it is, beyond the page.
@pytest.mark.parametrize("front_end_page", ["classic-1.32", "classic-1.58", "vue-1.58"], indirect=True)
def test_a_new_node_is_drawn_in_and_run(front_end_page):
    page = front_end_page
    node = page.evaluate(ADD)
    page.evaluate(SHOW_ALL)
    page.wait_for_timeout(300)
    assert blobs(prompt_of(page), node) == [EXAMPLE]
    hand = Hand(page, int(node))
    box = hand.paper.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(2, rel=0.02)
    hand.root.get_by_role("button", name="Suppress").click()
    hand.draw((0.2, 0.3), (0.25, 0.3))
    queued = prompt_of(page)
    drawn = {"x": 0.2, "y": 0.3, "sx": 0.05, "sy": 0.05} | {"angle": 0, "amplitude": 0.7, "mode": "suppress"}
    assert blobs(queued, node) == [
        EXAMPLE,
        {k: pytest.approx(v, abs=0.01) if k in "sxsy" else v for k, v in drawn.items()},
    ]
    client = page.server.client
    known = set(client.json("/history"))
    page.evaluate("() => app.queuePrompt(0)")
    for _ in range(100):
        new = {key: entry for key, entry in client.json("/history").items() if key not in known}
        if new:
            break
        page.wait_for_timeout(200)
    (entry,) = new.values()
    assert entry["status"]["completed"], entry["status"]
    assert entry["prompt"][2][node]["inputs"]["blobs"] == queued[node]["inputs"]["blobs"]
    page.wait_for_timeout(500)
    screenshot(page, f"saliency-editor-{page.kind}")
    saved = page.evaluate(SAVED)
    page.evaluate("graph => app.loadGraphData(graph)", saved)
    page.wait_for_timeout(500)
    assert blobs(prompt_of(page), node) == blobs(queued, node)


@pytest.mark.parametrize(
    "front_end_page", ["classic-1.58", "vue-1.58"], indirect=True
)  # the older one has no such panel
def test_the_side_panel_leaves_the_canvas_as_wide_as_its_node(front_end_page):
    page = front_end_page
    node = page.evaluate(ADD)
    hand = Hand(page, int(node))
    with side_panel(page):
        page.evaluate("id => app.canvas.selectNodes([app.graph.getNodeById(id)])", int(node))
        page.wait_for_timeout(1000)
        settle(page)
        wide = page.evaluate("id => app.graph.getNodeById(id).size[0] * app.canvas.ds.scale", int(node))
        shown = hand.root.bounding_box()["width"]
        screenshot(page, f"saliency-editor-panel-{page.kind}")
    assert 0.9 * wide < shown < wide


@contextmanager
def side_panel(page):
    """Open within the block."""
    change = "open => app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', open)"
    page.evaluate(change, True)
    yield
    page.evaluate(change, False)
