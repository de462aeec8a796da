"""The Highlight Canvas in the host's front end: both renderers, the front end of the floor and the current one."""

from __future__ import annotations

import pytest
from browser_pages import Hand, canvas_graph, drawing, open_front_end, open_graph, prompt_of, screenshot

ZIGZAG = [(0.2, 0.3), (0.4, 0.6), (0.6, 0.3), (0.8, 0.6)]


@pytest.fixture(scope="module", params=["classic-1.32", "vue-1.32", "classic-1.58", "vue-1.58"])
def page(request, chromium):
    renderer, front_end = request.param.split("-")
    server = request.getfixturevalue("server" if front_end == "1.32" else "newer_server")
    tab = open_front_end(chromium, server, vue=renderer == "vue")
    tab.kind, tab.vue, tab.server = request.param, renderer == "vue", server
    yield tab
    assert tab.problems == []
    tab.close()


def shapes(document: dict) -> list[str]:
    return [s["type"] for h in document["highlights"] for i in h["instances"] for s in i["shapes"]]


def test_draw_with_every_tool(page):
    assert drawing(open_graph(page, canvas_graph())) == {"version": 1, "highlights": []}
    hand = Hand(page)
    hand.draw(*ZIGZAG)
    hand.name("red circle")
    hand.key("n")
    hand.name("blue bar", row=1)
    hand.key("r")
    hand.draw((0.1, 0.7), (0.4, 0.9))
    hand.key("p")
    for corner in [(0.6, 0.7), (0.9, 0.7), (0.75, 0.95)]:
        hand.click(*corner)
    hand.key("Enter")
    screenshot(page, f"canvas-{page.kind}")
    found = drawing(prompt_of(page))
    assert [h["phrase"] for h in found["highlights"]] == ["red circle", "blue bar"]
    assert shapes(found) == ["stroke", "box", "polygon"]
    stroke = found["highlights"][0]["instances"][0]["shapes"][0]
    assert stroke["points"][0] == pytest.approx(ZIGZAG[0], abs=0.01)
    assert stroke["points"][-1] == pytest.approx(ZIGZAG[-1], abs=0.01)
    assert found["highlights"][1]["instances"][0]["shapes"][0]["box"] == pytest.approx([0.1, 0.7, 0.4, 0.9], abs=0.01)
