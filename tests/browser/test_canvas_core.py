"""The Highlight Canvas alone on a page, without the host: tools, list, keyboard, pen, finger."""

from __future__ import annotations

import json

import numpy as np
import pytest
from browser_pages import PEN, Hand, screenshot

from limelight.guidance import document


def stroke(*points, width=0.1):
    return {"type": "stroke", "points": [list(point) for point in points], "width": width}


def box(*sides):
    return {"type": "box", "box": list(sides)}


def highlight(phrase: str, *objects: list[dict], **more) -> dict:
    return {"phrase": phrase, "instances": [{"shapes": shapes} for shapes in objects], **more}


def load(page, *highlights: dict) -> Hand:
    page.evaluate("text => canvas.editor.load(text)", json.dumps({"version": 1, "highlights": highlights}))
    return Hand(page)


def near(points):
    return pytest.approx(np.array(points), abs=0.01)


def value(page) -> list[dict]:
    """The highlights of the drawing; the text is one that Python writes and reads too."""
    return json.loads(page.evaluate("canvas.editor.text"))["highlights"]


def objects(page, index: int = 0) -> list[list[dict]]:
    return [instance["shapes"] for instance in value(page)[index]["instances"]]


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
    ((shape,),) = objects(page)
    assert shape["width"] == 0.06 and len(shape["points"]) < 12
    assert all(abs(y - 0.502) < 0.004 for _, y in shape["points"])
    assert value(page)[0]["phrase"] == ""  # drawn without a name: the list asks for one
    assert "Write the words" in page.locator(".ll-warning").inner_text()


def test_smoothing_rounds_the_corner_and_none_keeps_it(bare_page):
    page = bare_page()
    near = {}
    for amount in (0, 1):
        hand = load(page)
        page.evaluate("smoothing => canvas.editor.set({ smoothing })", amount)
        hand.draw((0.2, 0.2), (0.8, 0.2), (0.8, 0.8))
        near[amount] = min(abs(x - 0.8) + abs(y - 0.2) for x, y in objects(page)[0][0]["points"])
    assert near[0] < 0.005 < 0.015 < near[1]


def test_what_lies_outside_makes_no_shape(bare_page):
    page = bare_page()
    hand = load(page)
    page.mouse.move(*hand.place(0.5, 0.98))
    hand.key("r")
    hand.draw((0.2, 0.2), (0.201, 0.201))
    assert value(page) == []
    hand.draw((0.5, 0.5), (1.4, 1.3))
    assert objects(page) == [[box(0.5, 0.5, 1.0, 1.0)]]


def test_box_and_polygon(bare_page):
    page = bare_page()
    page.evaluate("() => { size = [512, 256]; canvas.refresh() }")
    hand = load(page)
    hand.key("r")
    hand.draw((0.9, 0.8), (0.6, 0.4))
    page.keyboard.down("Shift")
    hand.draw((0.1, 0.1), (0.2, 0.7))
    page.keyboard.up("Shift")
    first, square = (shape["box"] for shape in objects(page)[0])
    assert first == pytest.approx([0.6, 0.4, 0.9, 0.8], abs=0.01)
    assert square == pytest.approx([0.1, 0.1, 0.4, 0.7], abs=0.01)  # as wide as high, in pixels
    hand.key("p")
    for corner in [(0.1, 0.5), (0.4, 0.5), (0.9, 0.9), (0.4, 0.9)]:
        hand.click(*corner)
    page.keyboard.press("Backspace")
    hand.click(0.3, 0.95)
    hand.click(0.1, 0.5)  # back on the first corner
    polygon = objects(page)[0][2]
    assert polygon["type"] == "polygon" and [round(x, 1) for x, _ in polygon["points"]] == [0.1, 0.4, 0.9, 0.3]
    hand.click(0.5, 0.5)
    hand.click(0.6, 0.5)
    page.keyboard.press("Escape")
    hand.click(0.7, 0.2)
    page.mouse.dblclick(*hand.place(0.9, 0.2))  # two corners are no polygon
    assert len(objects(page)[0]) == 3


def test_the_eraser_cuts_only_the_active_highlight(bare_page):
    page = bare_page()
    line, other = stroke((0.1, 0.5), (0.9, 0.5), width=0.04), stroke((0.5, 0.1), (0.5, 0.9), width=0.04)
    hand = load(page, highlight("a", [line, box(0.7, 0.1, 0.9, 0.3)]), highlight("b", [other]))
    hand.key("e")
    hand.draw((0.5, 0.3), (0.5, 0.7))
    left, right, _ = objects(page)[0]
    reach = 0.03 + 0.02  # of the eraser and of the line: nothing of the line is left under the eraser
    assert np.array(left["points"]) == near([[0.1, 0.5], [0.5 - reach, 0.5]])
    assert np.array(right["points"]) == near([[0.5 + reach, 0.5], [0.9, 0.5]])
    assert objects(page, 1) == [[other]]
    hand.draw((0.8, 0.2), (0.81, 0.2))
    assert [shape["type"] for shape in objects(page)[0]] == ["stroke", "stroke"]
    assert page.evaluate("edits.length") == 2
    page.evaluate("canvas.editor.set({ width: 0.5 })")
    hand.draw((0.1, 0.5), (0.9, 0.5))
    assert value(page)[0]["instances"] == []


def test_move_scale_nudge_and_delete(bare_page):
    page = bare_page()
    hand = load(page, highlight("a", [box(0.2, 0.2, 0.4, 0.4)]), highlight("b", [stroke((0.5, 0.6), (0.8, 0.6))]))
    hand.key("v")
    hand.draw((0.3, 0.3), (0.5, 0.4))
    assert objects(page)[0][0]["box"] == pytest.approx([0.4, 0.3, 0.6, 0.5], abs=0.005)
    pad = 0.01
    hand.draw((0.6 + pad, 0.5 + pad), (0.7 + pad, 0.6 + pad))  # the handle at the lower right
    assert objects(page)[0][0]["box"] == pytest.approx([0.4, 0.3, 0.7, 0.6], abs=0.01)
    hand.draw((0.78, 0.6), (0.78, 0.7))  # picks up the other highlight's stroke, and makes it the active one
    assert np.array(objects(page, 1)[0][0]["points"]) == near([[0.5, 0.7], [0.8, 0.7]])
    assert page.evaluate("canvas.editor.view.active") == 1
    hand.draw((0.78, 0.7), (0.78, 3.0))  # it cannot leave the canvas
    assert 0.9 < objects(page, 1)[0][0]["points"][0][1] <= 1.0
    before = objects(page, 1)[0][0]["points"][0]
    hand.key("ArrowLeft", "Shift+ArrowUp")
    after = objects(page, 1)[0][0]["points"][0]
    assert after == pytest.approx([before[0] - 0.005, before[1] - 0.05], abs=1e-6)
    hand.key("Delete")
    assert value(page)[1]["instances"] == [] and len(value(page)) == 2


def test_objects_of_one_phrase(bare_page):
    page = bare_page()
    hand = load(page, highlight("dolphins", [stroke((0.1, 0.2), (0.4, 0.2))]))
    hand.draw((0.1, 0.3), (0.4, 0.3))
    assert [len(shapes) for shapes in objects(page)] == [2]
    hand.key("o")
    hand.draw((0.1, 0.8), (0.4, 0.8))
    hand.draw((0.1, 0.9), (0.4, 0.9))
    assert [len(shapes) for shapes in objects(page)] == [2, 2]
    hand.key("v")
    hand.click(0.25, 0.3)
    hand.key("o")
    assert [len(shapes) for shapes in objects(page)] == [1, 2, 1]


def test_the_list(bare_page):
    page = bare_page()
    page.evaluate(
        "() => { prompt = 'a red circle, (blue bar:1.2) and the green star on a gray background'; canvas.refresh() }"
    )
    hand = load(page)
    offers = page.locator(".ll-offers button")
    assert offers.all_inner_texts() == ["red circle", "blue bar", "green star", "gray background"]
    offers.filter(has_text="red circle").click()
    offers.filter(has_text="green star").click()
    assert [one["phrase"] for one in value(page)] == ["red circle", "green star"]
    assert offers.all_inner_texts() == ["blue bar", "gray background"]
    assert page.locator(".ll-warning:visible").all_inner_texts() == ["Nothing is drawn for this phrase yet."] * 2
    hand.name("yellow star", row=1)
    hand.draw((0.2, 0.2), (0.5, 0.2))
    assert "does not say this phrase" in page.locator(".ll-warning").nth(1).inner_text()
    page.get_by_role("button", name="Move up yellow star").click()
    assert [one["phrase"] for one in value(page)] == ["yellow star", "red circle"]
    page.get_by_role("button", name="Hide yellow star").click()
    assert value(page)[0]["hidden"] is True
    assert document.parse({"version": 1, "highlights": [value(page)[0]]}).highlights == ()
    page.locator(".ll-color").first.evaluate("el => { el.value = '#123456'; el.dispatchEvent(new Event('change')) }")
    strength = page.get_by_label("Strength of yellow star")
    strength.fill("0.5")
    strength.press("Enter")
    page.get_by_label("Mention of yellow star").fill("2")
    page.get_by_label("Mention of yellow star").press("Enter")
    first = value(page)[0]
    assert (first["color"], first["strength"], first["occurrence"]) == ("#123456", 0.5, 2)
    page.get_by_role("button", name="Delete yellow star").click()
    assert [one["phrase"] for one in value(page)] == ["red circle"]
    hand.key("z")
    assert value(page)[0] == first


def test_undo_and_redo_in_the_widget(bare_page):
    page = bare_page()
    hand = load(page)
    states = [value(page)]
    for i in range(3):
        hand.draw((0.1, 0.2 + 0.2 * i), (0.8, 0.2 + 0.2 * i))
        states.append(value(page))
    hand.key("x")
    assert value(page)[0]["instances"] == []
    for wanted in reversed(states):
        hand.key("z")
        assert value(page) == wanted
    hand.key("z")
    for wanted in states[1:]:
        hand.key("Shift+Z")
        assert value(page) == wanted
    hand.draw((0.5, 0.1), (0.5, 0.9))
    hand.key("y")
    assert len(objects(page)[0]) == 4  # drawing ends what could be redone
    assert page.get_by_role("button", name="Redo in this canvas").is_disabled()


def test_what_the_host_undoes_can_be_redone_here(bare_page):
    page = bare_page()
    hand = load(page)
    texts = []
    for i in range(3):
        hand.draw((0.1, 0.2 + 0.2 * i), (0.8, 0.2 + 0.2 * i))
        texts.append(page.evaluate("canvas.editor.text"))
    page.evaluate("text => canvas.editor.load(text)", texts[0])
    assert page.evaluate("edits.length") == 3  # a text from outside is no edit
    hand.key("y", "y")
    assert page.evaluate("canvas.editor.text") == texts[2]
    page.evaluate("text => canvas.editor.load(text)", texts[0].replace("0.06", "0.07"))
    hand.key("z", "y")
    assert objects(page)[0][0]["width"] == 0.07  # another drawing has no history here


def test_a_name_being_typed_is_run_with(bare_page):
    page = bare_page()
    load(page, highlight("red", [box(0.2, 0.2, 0.4, 0.4)]))
    page.evaluate("() => addEventListener('keydown', e => { if (e.key === 'Enter') seen = canvas.editor.text })")
    page.locator(".ll-phrase").press_sequentially(" circle")
    page.keyboard.press("Control+Enter")
    assert json.loads(page.evaluate("seen"))["highlights"][0]["phrase"] != "red"


NAME = "(e => e.getAttribute('aria-label') || e.textContent.trim())"


def test_every_control_has_a_name_and_shows_the_focus(bare_page):
    page = bare_page()
    load(page, highlight("red circle", [box(0.2, 0.2, 0.4, 0.4)]))
    names = page.evaluate(
        "() => [...document.querySelectorAll('button, input, canvas[tabindex]')].filter(e => e.checkVisibility())"
        f".map({NAME})"
    )
    assert len(names) > 20 and all(names) and "Drawing area. 1 highlights: red circle" in names
    page.locator("[data-tool]").first.focus()
    reached = set()
    for _ in range(len(names)):
        reached.add(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent")
        )
        assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
        page.keyboard.press("Tab")
    assert len(reached) > 18


def test_the_shortcut_sheet(bare_page):
    page = bare_page()
    hand = load(page)
    sheet = page.get_by_role("dialog", name="Shortcuts")
    hand.key("?")
    assert sheet.is_visible() and "Eraser" in sheet.inner_text()
    screenshot(page, "canvas-shortcuts")
    page.keyboard.press("Escape")
    assert not sheet.is_visible()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Shortcuts"
    hand.key("e", "]", "]")
    assert page.evaluate("[canvas.editor.view.tool, canvas.editor.view.width]") == ["eraser", 0.086]


def test_keys_of_the_host_pass_and_dangerous_ones_do_not(bare_page):
    page = bare_page()
    page.evaluate("() => { passed = []; addEventListener('keydown', e => passed.push(e.key)) }")
    hand = load(page, highlight("a", [box(0.2, 0.2, 0.4, 0.4)]))
    hand.key("Delete", "Backspace", "b", "Control+Enter", "q")
    assert page.evaluate("passed") == ["Control", "Enter", "q"]  # Delete would have deleted the whole node


def test_pen_pressure_scales_the_width(bare_page):
    page = bare_page()
    hand = load(page)
    page.evaluate("canvas.editor.set({ width: 0.1 })")
    points = [[0.1 + 0.8 * i / 80, 0.5, 1 - abs(i - 40) / 40] for i in range(81)]
    page.evaluate(PEN, [points, "pen"])
    (runs,) = objects(page)
    assert 5 < len(runs) < 40
    widths = [run["width"] for run in runs]
    assert min(widths) < 0.04 and max(widths) > 0.09 and widths.index(max(widths)) in range(3, len(widths) - 3)
    assert all(a["points"][-1] == b["points"][0] for a, b in zip(runs, runs[1:], strict=False))
    hand.key("v")
    hand.draw((0.5, 0.5), (0.5, 0.7))  # the whole pen stroke moves
    assert all(y == pytest.approx(0.7, abs=0.01) for run in objects(page)[0] for _, y in run["points"])
    hand.key("Delete", "b")
    page.get_by_role("button", name="Pen pressure changes the width").click()
    page.evaluate(PEN, [points, "pen"])
    assert [run["width"] for run in objects(page)[0]] == [0.1]
    page.evaluate("canvas.editor.set({ pressure: true })")
    page.evaluate(PEN, [points, "mouse"])
    assert len(objects(page)[0]) == 2


def test_a_finger_draws(bare_page):
    page = bare_page(has_touch=True)
    hand = load(page)
    touch = page.context.new_cdp_session(page)
    for kind, x in [("touchStart", 0.2), *(("touchMove", 0.2 + i * 0.05) for i in range(1, 11)), ("touchEnd", None)]:
        points = [] if x is None else [dict(zip("xy", hand.place(x, 0.5), strict=True))]
        # the method's name is the browser's own
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert page.evaluate("edits.length") == 1
    ((shape,),) = objects(page)
    assert shape["points"][0] == pytest.approx([0.2, 0.5], abs=0.02)
    assert shape["points"][-1] == pytest.approx([0.7, 0.5], abs=0.02)


@pytest.mark.parametrize("size", [(1024, 512), (256, 1024)])
def test_the_paper_keeps_the_aspect(bare_page, size):
    page = bare_page()
    page.evaluate("now => { size = now; canvas.refresh() }", list(size))
    place = Hand(page).paper.bounding_box()
    assert place["width"] / place["height"] == pytest.approx(size[0] / size[1], rel=0.02)
    hand = load(page)
    hand.draw((0.1, 0.1), (0.9, 0.9))
    points = objects(page)[0][0]["points"]
    assert points[0] == pytest.approx([0.1, 0.1], abs=0.01) and points[-1] == pytest.approx([0.9, 0.9], abs=0.01)


def test_twice_the_page_zoom_and_a_narrow_node(bare_page):
    page = bare_page(width=330, height=420, device_scale_factor=2, viewport={"width": 350, "height": 440})
    hand = load(page, highlight("red circle", [stroke((0.2, 0.2), (0.8, 0.8))]))
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
    assert objects(page)[0][0]["points"][0] == pytest.approx([0.3, 0.2], abs=0.02)
