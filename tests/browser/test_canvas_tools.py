"""The Highlight Canvas alone on a page, without the host: its tools, pen, finger, sizes."""

from __future__ import annotations

import numpy as np
import pytest
from browser_pages import PEN, Hand, bare_objects, bare_value, box, highlight, load_bare, screenshot, stroke


def near(points):
    return pytest.approx(np.array(points), abs=0.01)


def test_a_stroke_is_smoothed_thinned_and_committed_once(bare_page):
    page = bare_page()
    hand = Hand(page)
    hand.page.mouse.move(*hand.place(0.1, 0.5))
    page.mouse.down()
    for i in range(60):
        page.mouse.move(*hand.place(0.1 + i * 0.01, 0.5 + (0.004 if i % 2 else 0)))
    assert page.evaluate("[canvas.editor.text, edits.length]") == ['{"version":1,"highlights":[]}', 0]
    page.mouse.up()
    assert page.evaluate("edits.length") == 1 and page.evaluate("edits[0] === canvas.editor.text")
    ((shape,),) = bare_objects(page)
    assert shape["width"] == 0.06 and len(shape["points"]) < 12
    assert all(abs(y - 0.502) < 0.004 for _, y in shape["points"])
    assert bare_value(page)[0]["phrase"] == ""  # drawn without a name: the list asks for one
    assert "Write the words" in page.locator(".ll-warning").inner_text()


def test_smoothing_rounds_the_corner_and_none_keeps_it(bare_page):
    page = bare_page()
    near = {}
    for amount in (0, 1):
        hand = load_bare(page)
        page.evaluate("smoothing => canvas.editor.set({ smoothing })", amount)
        hand.draw((0.2, 0.2), (0.8, 0.2), (0.8, 0.8))
        near[amount] = min(abs(x - 0.8) + abs(y - 0.2) for x, y in bare_objects(page)[0][0]["points"])
    assert near[0] < 0.005 < 0.015 < near[1]


def test_what_lies_outside_makes_no_shape(bare_page):
    page = bare_page()
    hand = load_bare(page)
    page.mouse.move(*hand.place(0.5, 0.98))
    hand.key("r")
    hand.draw((0.2, 0.2), (0.201, 0.201))
    assert bare_value(page) == []
    hand.draw((0.5, 0.5), (1.4, 1.3))
    assert bare_objects(page) == [[box(0.5, 0.5, 1.0, 1.0)]]


def test_box_and_polygon(bare_page):
    page = bare_page()
    page.evaluate("() => { size = [512, 256]; canvas.refresh() }")
    hand = load_bare(page)
    hand.key("r")
    hand.draw((0.9, 0.8), (0.6, 0.4))
    page.keyboard.down("Shift")
    hand.draw((0.1, 0.1), (0.2, 0.7))
    page.keyboard.up("Shift")
    first, square = (shape["box"] for shape in bare_objects(page)[0])
    assert first == pytest.approx([0.6, 0.4, 0.9, 0.8], abs=0.01)
    assert square == pytest.approx([0.1, 0.1, 0.4, 0.7], abs=0.01)  # as wide as high, in pixels
    hand.key("p")
    for corner in [(0.1, 0.5), (0.4, 0.5), (0.9, 0.9), (0.4, 0.9)]:
        hand.click(*corner)
    page.keyboard.press("Backspace")
    hand.click(0.3, 0.95)
    hand.click(0.1, 0.5)  # back on the first corner
    polygon = bare_objects(page)[0][2]
    assert polygon["type"] == "polygon" and [round(x, 1) for x, _ in polygon["points"]] == [0.1, 0.4, 0.9, 0.3]
    hand.click(0.5, 0.5)
    hand.click(0.6, 0.5)
    page.keyboard.press("Escape")
    hand.click(0.7, 0.2)
    page.mouse.dblclick(*hand.place(0.9, 0.2))  # two corners are no polygon
    assert len(bare_objects(page)[0]) == 3


def test_the_eraser_cuts_only_the_active_highlight(bare_page):
    page = bare_page()
    line, other = stroke((0.1, 0.5), (0.9, 0.5), width=0.04), stroke((0.5, 0.1), (0.5, 0.9), width=0.04)
    hand = load_bare(page, highlight("a", [line, box(0.7, 0.1, 0.9, 0.3)]), highlight("b", [other]))
    hand.key("e")
    hand.draw((0.5, 0.3), (0.5, 0.7))
    left, right, _ = bare_objects(page)[0]
    reach = 0.03 + 0.02  # of the eraser and of the line: nothing of the line is left under the eraser
    assert np.array(left["points"]) == near([[0.1, 0.5], [0.5 - reach, 0.5]])
    assert np.array(right["points"]) == near([[0.5 + reach, 0.5], [0.9, 0.5]])
    assert bare_objects(page, 1) == [[other]]
    hand.draw((0.8, 0.2), (0.81, 0.2))
    assert [shape["type"] for shape in bare_objects(page)[0]] == ["stroke", "stroke"]
    assert page.evaluate("edits.length") == 2
    page.evaluate("canvas.editor.set({ width: 0.5 })")
    hand.draw((0.1, 0.5), (0.9, 0.5))
    assert bare_value(page)[0]["instances"] == []


def test_move_scale_nudge_and_delete(bare_page):
    page = bare_page()
    hand = load_bare(page, highlight("a", [box(0.2, 0.2, 0.4, 0.4)]), highlight("b", [stroke((0.5, 0.6), (0.8, 0.6))]))
    hand.key("v")
    hand.draw((0.3, 0.3), (0.5, 0.4))
    assert bare_objects(page)[0][0]["box"] == pytest.approx([0.4, 0.3, 0.6, 0.5], abs=0.005)
    pad = 0.01
    hand.draw((0.6 + pad, 0.5 + pad), (0.7 + pad, 0.6 + pad))  # the handle at the lower right
    assert bare_objects(page)[0][0]["box"] == pytest.approx([0.4, 0.3, 0.7, 0.6], abs=0.01)
    hand.draw((0.78, 0.6), (0.78, 0.7))  # picks up the other highlight's stroke, and makes it the active one
    assert np.array(bare_objects(page, 1)[0][0]["points"]) == near([[0.5, 0.7], [0.8, 0.7]])
    assert page.evaluate("canvas.editor.view.active") == 1
    hand.draw((0.78, 0.7), (0.78, 3.0))  # it cannot leave the canvas
    assert 0.9 < bare_objects(page, 1)[0][0]["points"][0][1] <= 1.0
    before = bare_objects(page, 1)[0][0]["points"][0]
    hand.key("ArrowLeft", "Shift+ArrowUp")
    after = bare_objects(page, 1)[0][0]["points"][0]
    assert after == pytest.approx([before[0] - 0.005, before[1] - 0.05], abs=1e-6)
    hand.key("Delete")
    assert bare_value(page)[1]["instances"] == [] and len(bare_value(page)) == 2


def test_objects_of_one_phrase(bare_page):
    page = bare_page()
    hand = load_bare(page, highlight("dolphins", [stroke((0.1, 0.2), (0.4, 0.2))]))
    hand.draw((0.1, 0.3), (0.4, 0.3))
    assert [len(shapes) for shapes in bare_objects(page)] == [2]
    hand.key("o")
    hand.draw((0.1, 0.8), (0.4, 0.8))
    hand.draw((0.1, 0.9), (0.4, 0.9))
    assert [len(shapes) for shapes in bare_objects(page)] == [2, 2]
    hand.key("v")
    hand.click(0.25, 0.3)
    hand.key("o")
    assert [len(shapes) for shapes in bare_objects(page)] == [1, 2, 1]


def test_pen_pressure_scales_the_width(bare_page):
    page = bare_page()
    hand = load_bare(page)
    page.evaluate("canvas.editor.set({ width: 0.1 })")
    points = [[0.1 + 0.8 * i / 80, 0.5, 1 - abs(i - 40) / 40] for i in range(81)]
    page.evaluate(PEN, [points, "pen"])
    (runs,) = bare_objects(page)
    assert 5 < len(runs) < 40
    widths = [run["width"] for run in runs]
    assert min(widths) < 0.04 and max(widths) > 0.09 and widths.index(max(widths)) in range(3, len(widths) - 3)
    assert all(a["points"][-1] == b["points"][0] for a, b in zip(runs, runs[1:], strict=False))
    hand.key("v")
    hand.draw((0.5, 0.5), (0.5, 0.7))  # the whole pen stroke moves
    assert all(y == pytest.approx(0.7, abs=0.01) for run in bare_objects(page)[0] for _, y in run["points"])
    hand.key("Delete", "b")
    page.get_by_role("button", name="Pen pressure changes the width").click()
    page.evaluate(PEN, [points, "pen"])
    assert [run["width"] for run in bare_objects(page)[0]] == [0.1]
    page.evaluate("canvas.editor.set({ pressure: true })")
    page.evaluate(PEN, [points, "mouse"])
    assert len(bare_objects(page)[0]) == 2


def test_a_finger_draws(bare_page):
    page = bare_page(has_touch=True)
    hand = load_bare(page)
    touch = page.context.new_cdp_session(page)
    for kind, x in [("touchStart", 0.2), *(("touchMove", 0.2 + i * 0.05) for i in range(1, 11)), ("touchEnd", None)]:
        points = [] if x is None else [dict(zip("xy", hand.place(x, 0.5), strict=True))]
        # the method's name is the browser's own
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert page.evaluate("edits.length") == 1
    ((shape,),) = bare_objects(page)
    assert shape["points"][0] == pytest.approx([0.2, 0.5], abs=0.02)
    assert shape["points"][-1] == pytest.approx([0.7, 0.5], abs=0.02)


@pytest.mark.parametrize("size", [(1024, 512), (256, 1024)])
def test_the_paper_keeps_the_aspect(bare_page, size):
    page = bare_page()
    page.evaluate("now => { size = now; canvas.refresh() }", list(size))
    place = Hand(page).paper.bounding_box()
    assert place["width"] / place["height"] == pytest.approx(size[0] / size[1], rel=0.02)
    hand = load_bare(page)
    hand.draw((0.1, 0.1), (0.9, 0.9))
    points = bare_objects(page)[0][0]["points"]
    assert points[0] == pytest.approx([0.1, 0.1], abs=0.01) and points[-1] == pytest.approx([0.9, 0.9], abs=0.01)


def test_twice_the_page_zoom_and_a_narrow_node(bare_page):
    page = bare_page(width=330, height=420, device_scale_factor=2, viewport={"width": 350, "height": 440})
    hand = load_bare(page, highlight("red circle", [stroke((0.2, 0.2), (0.8, 0.8))]))
    screenshot(page, "canvas-narrow-200")
    outside = page.evaluate(
        "() => { const root = document.querySelector('.limelight-canvas').getBoundingClientRect();"
        "return [...document.querySelectorAll('.ll-bar *, .ll-live')].filter(e => e.checkVisibility()"
        " && (e.getBoundingClientRect().right > root.right || e.getBoundingClientRect().bottom > root.bottom)).length }"
    )
    assert outside == 0
    assert (
        page.evaluate("document.querySelector('.ll-live').width / document.querySelector('.ll-live').clientWidth") == 2
    )
    hand.key("v")
    hand.draw((0.5, 0.5), (0.6, 0.5))
    assert bare_objects(page)[0][0]["points"][0] == pytest.approx([0.3, 0.2], abs=0.02)
