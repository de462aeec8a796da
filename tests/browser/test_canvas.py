"""The Highlight Canvas in the host's front end: nothing that is drawn gets lost."""

from __future__ import annotations

import pytest
from browser_pages import (
    LINES,
    NODE,
    PEN,
    SHOW_ALL,
    TEXT,
    Hand,
    canvas_graph,
    drawing,
    open_graph,
    prompt_of,
    screenshot,
    shapes,
    wait_for_shapes,
)

from limelight.tools.browser import READY, open_front_end

KEPT = "() => [localStorage, sessionStorage].some(kept => JSON.stringify({ ...kept }).includes('stroke'))"
ZIGZAG = [(0.2, 0.3), (0.4, 0.6), (0.6, 0.3), (0.8, 0.6)]


@pytest.fixture
def page(front_end_page):
    return front_end_page


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
    hand.key("v")
    hand.click(0.2, 0.8)
    screenshot(page, f"canvas-{page.kind}")
    found = drawing(prompt_of(page))
    assert [h["phrase"] for h in found["highlights"]] == ["red circle", "blue bar"]
    assert shapes(found) == ["stroke", "box", "polygon"]
    stroke = found["highlights"][0]["instances"][0]["shapes"][0]
    assert stroke["points"][0] == pytest.approx(ZIGZAG[0], abs=0.01)
    assert stroke["points"][-1] == pytest.approx(ZIGZAG[-1], abs=0.01)
    assert found["highlights"][1]["instances"][0]["shapes"][0]["box"] == pytest.approx([0.1, 0.7, 0.4, 0.9], abs=0.01)


def test_undo_of_the_host_lands_between_strokes(page):
    open_graph(page, canvas_graph())
    hand = Hand(page)
    hand.key("]")
    for line in LINES[:3]:
        hand.draw(*line)
    states = [drawing(prompt_of(page))]
    for count in (2, 1, 0):
        hand.paper.focus()
        page.keyboard.press("Control+z")
        wait_for_shapes(page, count)
    for count in (1, 2, 3):
        hand.paper.focus()
        page.keyboard.press("Control+y")
        wait_for_shapes(page, count)
    states.append(drawing(prompt_of(page)))
    assert states[0] == states[1]
    hand.draw(*LINES[3])  # with the brush as it was, though the host made the node anew
    widths = [s["width"] for s in drawing(prompt_of(page))["highlights"][0]["instances"][0]["shapes"]]
    assert widths == [0.072] * 4
    hand.key("z")
    assert len(shapes(drawing(prompt_of(page)))) == 3


def test_a_pen_stroke_is_a_step_of_the_host(page):
    open_graph(page, canvas_graph())
    for y in (0.2, 0.4, 0.6):
        page.evaluate(PEN, [[[0.1, y, 0.5], [0.5, y, 0.5], [0.9, y, 0.5]], "pen"])
    for count in (2, 1, 0):
        Hand(page).paper.focus()
        page.keyboard.press("Control+z")
        wait_for_shapes(page, count)


def test_save_and_load(page):
    open_graph(page, canvas_graph({"text": TEXT, "width": 768}))
    Hand(page).draw(*LINES[0])
    before = prompt_of(page)
    saved = page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")
    assert saved["nodes"][0]["widgets_values"][:2] == [before["1"]["inputs"]["highlights"], 768]
    open_graph(page, canvas_graph())
    page.evaluate("graph => app.loadGraphData(graph)", saved)
    wait_for_shapes(page, 3)
    assert prompt_of(page) == before
    assert len(shapes(drawing(before))) == 3


def test_reload_of_the_page(page, chromium):
    tab = open_front_end(chromium, page.server, vue=page.vue, persist=True)
    open_graph(tab, canvas_graph())
    Hand(tab, 1).draw(*ZIGZAG)
    before = drawing(prompt_of(tab))
    assert shapes(before) == ["stroke"]
    tab.wait_for_function(KEPT)  # the front end keeps the graph a while after each change
    tab.reload()
    tab.wait_for_function(READY)
    wait_for_shapes(tab, 1)
    assert drawing(prompt_of(tab)) == before and tab.problems == []
    tab.close()


def test_a_copy_of_the_node_is_a_drawing_of_its_own(page):
    open_graph(page, canvas_graph({"text": TEXT}))
    page.evaluate(f"() => {{ app.canvas.selectItems([{NODE}]); app.canvas.copyToClipboard() }}")
    page.evaluate("() => { app.canvas.graph_mouse = [700, 0]; app.canvas.pasteFromClipboard() }")
    page.wait_for_function("document.querySelectorAll('.limelight-canvas').length === 2")
    page.evaluate("() => { app.graph.nodes.find(node => node.id !== 1).pos = [640, 0] }")
    page.evaluate(SHOW_ALL)
    page.wait_for_timeout(400)
    prompt = prompt_of(page)
    first, second = sorted(prompt, key=int)
    assert prompt[first]["inputs"] == prompt[second]["inputs"]
    copy = Hand(page, second)
    copy.key("r")
    copy.draw((0.6, 0.6), (0.9, 0.9))
    screenshot(page, f"canvas-copy-{page.kind}")
    after = prompt_of(page)
    assert after[first] == prompt[first]
    assert shapes(drawing(after, second)) == ["stroke", "box", "box"]
    original = Hand(page, first)
    original.draw(*LINES[3])  # its own tool
    assert shapes(drawing(prompt_of(page), first)) == ["stroke", "stroke", "box"]
    assert shapes(drawing(prompt_of(page), second)) == ["stroke", "box", "box"]
