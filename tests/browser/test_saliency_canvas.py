"""The saliency canvas alone on a page: blobs that are drawn, dragged, stretched, turned."""

from __future__ import annotations

import json
import math

import pytest
from browser_pages import Hand, screenshot

BLOB = {"x": 0.5, "y": 0.5, "sx": 0.1, "sy": 0.05, "angle": 0, "amplitude": 0.7, "mode": "attract"}
TURN = 0.03 + 2 * 0.05  # the turning handle lies 1.35 times so far above the centre


def load(page, *blobs: dict) -> Hand:
    page.evaluate("text => canvas.editor.load(text)", json.dumps({"version": 1, "blobs": blobs}))
    return Hand(page)


def blobs(page) -> list[dict]:
    return json.loads(page.evaluate("canvas.editor.text"))["blobs"]


def test_draw_a_blob_from_its_centre(bare_page):
    page = bare_page("saliency")
    assert page.evaluate("canvas.editor.text") == '{"version":1,"blobs":[]}'
    hand = Hand(page)
    page.get_by_role("button", name="Suppress").click()
    hand.draw((0.3, 0.4), (0.5, 0.4))
    assert blobs(page) == [
        {"x": pytest.approx(0.3, abs=0.01), "y": pytest.approx(0.4, abs=0.01), "sx": pytest.approx(0.1, abs=0.01)}
        | {"sy": pytest.approx(0.1, abs=0.01), "angle": 0, "amplitude": 0.7, "mode": "suppress"}
    ]
    assert page.evaluate("edits.length") == 1


def test_drag_stretch_turn(bare_page):
    page = bare_page("saliency")
    page.evaluate("() => { size = [768, 512]; canvas.refresh() }")
    hand = load(page, BLOB)
    hand.draw((0.5, 0.5), (0.4, 0.6))
    (blob,) = blobs(page)
    assert blob == BLOB | {"x": pytest.approx(0.4, abs=0.01), "y": pytest.approx(0.6, abs=0.01)}
    reach = 2 * 0.1 / 1.5  # the side handle: two standard deviations, in fractions of the width
    hand.draw((0.4 + reach, 0.6), (0.4 + 2 * reach, 0.6))
    (blob,) = blobs(page)
    assert blob["sx"] == pytest.approx(0.2, abs=0.01) and blob["sy"] == 0.05
    assert blob["x"] == pytest.approx(0.4, abs=0.01)  # both sides follow: the centre stays
    hand.draw((0.4, 0.6 - 1.35 * TURN), (0.4 + 0.3 / 1.5, 0.3))
    (blob,) = blobs(page)
    assert blob["angle"] == pytest.approx(45, abs=2)
    across = math.cos(math.radians(45)) * 2 * 0.2
    screenshot(page, "saliency-blobs")
    hand.draw((0.4 + across / 1.5, 0.6 + across), (0.4 + 1.5 * across / 1.5, 0.6 + 1.5 * across))
    (blob,) = blobs(page)
    assert blob["sx"] == pytest.approx(0.3, abs=0.02)  # the handle turned with the blob
    assert page.evaluate("edits.length") == 4


def test_amplitude_mode_keys_and_undo(bare_page):
    page = bare_page("saliency")
    hand = load(page, BLOB, BLOB | {"x": 0.2})
    hand.click(0.5, 0.5)
    assert page.evaluate("edits.length") == 0
    hand.key("]", "s", "ArrowRight", "Shift+ArrowUp")
    changed = BLOB | {"amplitude": 0.75, "mode": "suppress", "x": 0.505, "y": 0.45}
    assert blobs(page)[0] == changed
    slider = page.get_by_label("Amplitude")
    slider.fill("0.3")
    assert blobs(page)[0]["amplitude"] == 0.3
    hand.key("Delete")
    assert blobs(page) == [BLOB | {"x": 0.2}]
    hand.key("z", "z")
    assert blobs(page) == [changed, BLOB | {"x": 0.2}]
    hand.key("Shift+Z", "y")
    assert blobs(page) == [BLOB | {"x": 0.2}]


def test_a_gaussian_is_what_it_says(bare_page):
    page = bare_page("saliency")
    at = """async ([blob, p]) => (await import("/limelight/blobs.js")).blobAt(blob, p, [1.5, 1])"""
    turned = BLOB | {"angle": 90}
    assert page.evaluate(at, [BLOB, [0.75, 0.5]]) == pytest.approx(0.7)
    assert page.evaluate(at, [BLOB, [0.75 + 0.1, 0.5]]) == pytest.approx(0.7 * math.exp(-0.5))
    assert page.evaluate(at, [turned, [0.75, 0.5 + 0.1]]) == pytest.approx(0.7 * math.exp(-0.5))
    assert page.evaluate(at, [turned, [0.75 + 0.1, 0.5]]) == pytest.approx(0.7 * math.exp(-2))


@pytest.mark.parametrize(
    "text",
    [
        '{"version":1,"blobs":[',
        '{"version":2,"blobs":[]}',
        '{"version":1,"highlights":[]}',
        json.dumps({"version": 1, "blobs": [BLOB | {"sx": 0}]}),
        json.dumps({"version": 1, "blobs": [BLOB | {"mode": "constructor"}]}),
        json.dumps({"version": 1, "blobs": [BLOB | {"mode": "<img src=x onerror=window.hacked=1>"}]}),
        json.dumps({"version": 1, "blobs": [BLOB | {"amplitude": 2}]}),
        json.dumps({"version": 1, "blobs": [BLOB] * 65}),
    ],
)
def test_a_text_that_cannot_be_read_is_kept(bare_page, text):
    page = bare_page("saliency")
    page.evaluate("text => canvas.editor.load(text)", text)
    assert page.locator(".ll-problem").is_visible() and page.evaluate("canvas.editor.text") == text
    assert page.evaluate("window.hacked") is None
