"""The Highlight Canvas alone on a page, without the host: list, history, keyboard."""

from __future__ import annotations

import json

from browser_pages import bare_objects, bare_value, box, highlight, load_bare, screenshot

from limelight.guidance.regions import document


def test_the_list(bare_page):
    page = bare_page()
    page.evaluate(
        "() => { prompt = 'a red circle, (blue bar:1.2) and the green star on a gray background'; canvas.refresh() }"
    )
    hand = load_bare(page)
    offers = page.locator(".ll-offers button")
    assert offers.all_inner_texts() == ["red circle", "blue bar", "green star", "gray background"]
    offers.filter(has_text="red circle").click()
    offers.filter(has_text="green star").click()
    assert [one["phrase"] for one in bare_value(page)] == ["red circle", "green star"]
    assert offers.all_inner_texts() == ["blue bar", "gray background"]
    assert page.locator(".ll-warning:visible").all_inner_texts() == ["Nothing is drawn for this phrase yet."] * 2
    hand.name("yellow star", row=1)
    hand.draw((0.2, 0.2), (0.5, 0.2))
    assert "does not say this phrase" in page.locator(".ll-warning").nth(1).inner_text()
    page.get_by_role("button", name="Move up yellow star").click()
    assert [one["phrase"] for one in bare_value(page)] == ["yellow star", "red circle"]
    page.get_by_role("button", name="Hide yellow star").click()
    assert bare_value(page)[0]["hidden"] is True
    assert document.parse({"version": 1, "highlights": [bare_value(page)[0]]}).highlights == ()
    page.locator(".ll-color").first.evaluate("el => { el.value = '#123456'; el.dispatchEvent(new Event('change')) }")
    strength = page.get_by_label("Strength of yellow star")
    strength.fill("0.5")
    strength.press("Enter")
    page.get_by_label("Mention of yellow star").fill("2")
    page.get_by_label("Mention of yellow star").press("Enter")
    first = bare_value(page)[0]
    assert (first["color"], first["strength"], first["occurrence"]) == ("#123456", 0.5, 2)
    page.get_by_role("button", name="Delete yellow star").click()
    assert [one["phrase"] for one in bare_value(page)] == ["red circle"]
    hand.key("z")
    assert bare_value(page)[0] == first


def test_undo_and_redo_in_the_widget(bare_page):
    page = bare_page()
    hand = load_bare(page)
    states = [bare_value(page)]
    for i in range(3):
        hand.draw((0.1, 0.2 + 0.2 * i), (0.8, 0.2 + 0.2 * i))
        states.append(bare_value(page))
    hand.key("x")
    assert bare_value(page)[0]["instances"] == []
    for wanted in reversed(states):
        hand.key("z")
        assert bare_value(page) == wanted
    hand.key("z")
    for wanted in states[1:]:
        hand.key("Shift+Z")
        assert bare_value(page) == wanted
    hand.draw((0.5, 0.1), (0.5, 0.9))
    hand.key("y")
    assert len(bare_objects(page)[0]) == 4  # drawing ends what could be redone
    assert page.get_by_role("button", name="Redo in this canvas").is_disabled()


def test_what_the_host_undoes_can_be_redone_here(bare_page):
    page = bare_page()
    hand = load_bare(page)
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
    assert bare_objects(page)[0][0]["width"] == 0.07  # another drawing has no history here


def test_a_name_being_typed_is_run_with(bare_page):
    page = bare_page()
    load_bare(page, highlight("red", [box(0.2, 0.2, 0.4, 0.4)]))
    page.evaluate("() => addEventListener('keydown', e => { if (e.key === 'Enter') seen = canvas.editor.text })")
    page.locator(".ll-phrase").press_sequentially(" circle")
    page.keyboard.press("Control+Enter")
    assert json.loads(page.evaluate("seen"))["highlights"][0]["phrase"] != "red"


NAME = "(e => e.getAttribute('aria-label') || e.textContent.trim())"


def test_every_control_has_a_name_and_shows_the_focus(bare_page):
    page = bare_page()
    load_bare(page, highlight("red circle", [box(0.2, 0.2, 0.4, 0.4)]))
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
    hand = load_bare(page)
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
    hand = load_bare(page, highlight("a", [box(0.2, 0.2, 0.4, 0.4)]))
    hand.key("Delete", "Backspace", "b", "Control+Enter", "q")
    assert page.evaluate("passed") == ["Control", "Enter", "q"]  # Delete would have deleted the whole node
