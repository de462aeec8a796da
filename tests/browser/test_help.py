"""The help panel in the host's front end."""

from __future__ import annotations

from browser_pages import canvas_graph, open_graph, screenshot


def test_help_page_opens_with_its_picture(front_end_page):
    page = front_end_page
    open_graph(page, canvas_graph())
    page.evaluate("() => app.canvas.selectNodes([app.graph.nodes[0]])")
    page.get_by_test_id("info-button").dispatch_event("click")  # the toolbox follows the node, always a little late
    picture = page.locator(".node-help-content img")
    picture.wait_for()
    page.wait_for_function("() => document.querySelector('.node-help-content img').naturalWidth > 200")
    assert page.locator(".node-help-content h1").inner_text() == "Highlight Canvas"
    assert picture.get_attribute("src") == "/extensions/limelight/docs/LimelightHighlightCanvas.png"
    screenshot(page, f"help-{page.kind}")
