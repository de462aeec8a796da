"""The nodes' texts in another language in the host's front end."""

from __future__ import annotations

import pytest
from browser_pages import canvas_graph, open_graph, screenshot

from limelight.tools.browser import open_front_end

# Front end 1.32 loads its own Chinese after the packs' and drops theirs.
NEWER = ["classic-1.58", "vue-1.58"]


@pytest.mark.parametrize("front_end_page", NEWER, indirect=True)
def test_nodes_speak_chinese(front_end_page, chromium):
    page = open_front_end(chromium, front_end_page.server, vue=front_end_page.vue, language="zh")
    try:
        open_graph(page, canvas_graph())
        node = page.evaluate(
            """() => {
              const node = LiteGraph.createNode("LimelightHighlightGuidance")
              const named = slots => slots.map(slot => slot.label ?? slot.localized_name ?? slot.name)
              return { title: node.title, inputs: named(node.inputs), outputs: named(node.outputs) }
            }"""
        )
        screenshot(page, f"chinese-{front_end_page.kind}")
    finally:
        page.close()
        front_end_page.server.client.request("/settings", {"Comfy.Locale": "en"})
    assert node["title"] == "高亮引导"
    assert {"模型", "强度", "开始百分比"} <= set(node["inputs"])
    assert node["outputs"] == ["模型"]
