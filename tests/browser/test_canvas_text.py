"""The canvas and its text: the same verdict as Python's on good and bad documents, the same masks, no freeze."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from browser_pages import WATCH_LONG_TASKS, Hand, open_bare

from limelight.guidance.errors import LimelightError
from limelight.guidance.regions import document, raster

STROKE = {"type": "stroke", "points": [[0.2, 0.3], [0.7, 0.3]], "width": 0.1}
GOOD = {"phrase": "red circle", "instances": [{"shapes": [STROKE]}]}
MARKUP = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>\"'`${window.hacked=1}"


def text_of(*highlights, **more) -> str:
    return json.dumps({"version": 1, "highlights": list(highlights), **more})


def with_shape(**shape) -> str:
    return text_of({"phrase": "a", "instances": [{"shapes": [shape]}]})


HOSTILE = {
    "cut off": text_of(GOOD)[:-20],
    "not JSON": "<html><script>window.hacked=1</script>",
    "deep nesting": '{"version":1,"highlights":' + "[" * 50_000 + "]" * 50_000 + "}",
    "deep object": '{"version":1,"highlights":' + '{"a":' * 50_000 + "1" + "}" * 50_001,
    "number as text": "123",
    "null": "null",
    "list": "[]",
    "newer version": '{"version":2,"highlights":[]}',
    "version as text": '{"version":"1","highlights":[]}',
    "no list": '{"version":1,"highlights":{"length":3}}',
    "unknown key": text_of(GOOD, editor={}),
    "prototype": '{"version":1,"highlights":[],"__proto__":{"hacked":1}}',
    "prototype of a highlight": text_of(GOOD).replace('"phrase"', '"__proto__": {"hidden": true}, "phrase"'),
    "constructor": '{"version":1,"highlights":[],"constructor":{"prototype":{"hacked":1}}}',
    "markup as version": json.dumps({"version": MARKUP, "highlights": []}),
    "markup as colour": text_of(GOOD | {"color": MARKUP}),
    "colour that is a style": text_of(GOOD | {"color": "red;background:url(http://127.0.0.1:9/x)"}),
    "phrase is a list": text_of(GOOD | {"phrase": [MARKUP]}),
    "endless phrase": text_of(GOOD | {"phrase": "x" * 501}),
    "huge number": text_of(GOOD).replace("0.7", "1e999"),
    "large number": text_of(GOOD).replace("0.7", "1e15"),
    "width of zero": with_shape(**STROKE | {"width": 0}),
    "width as text": with_shape(**STROKE | {"width": "0.1"}),
    "no points": with_shape(**STROKE | {"points": []}),
    "point of three": with_shape(**STROKE | {"points": [[0, 0, 0]]}),
    "too many points": with_shape(**STROKE | {"points": [[0.5, 0.5]] * 10_001}),
    "box without area": with_shape(type="box", box=[0.5, 0.5, 0.5, 0.9]),
    "box the wrong way": with_shape(type="box", box=[0.9, 0.1, 0.2, 0.9]),
    "polygon of two": with_shape(type="polygon", points=[[0, 0], [1, 1]]),
    "unknown shape": with_shape(type=MARKUP),
    "mask that is no base64": with_shape(type="mask", png=f"data:text/html,{MARKUP}"),
    "shape is null": text_of({"phrase": "a", "instances": [{"shapes": [None]}]}),
    "no shapes": text_of({"phrase": "a", "instances": [{"shapes": []}]}),
    "instances missing": text_of({"phrase": "a"}),
    "too many highlights": text_of(*[GOOD | {"occurrence": i + 1} for i in range(65)]),
    "strength below zero": text_of(GOOD | {"strength": -1}),
    "mention is a fraction": text_of(GOOD | {"occurrence": 1.5}),
    "hidden as a number": text_of(GOOD | {"hidden": 1}),
}


HARMLESS = "[window.hacked, {}.hacked, document.querySelectorAll('script, img[src=x], iframe').length]"


@pytest.fixture(scope="module")
def hostile_page(chromium, web_url):
    page = open_bare(chromium, web_url)
    yield page
    assert page.problems == []
    page.context.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_text_that_cannot_be_read_is_kept_and_explained(hostile_page, name):
    page, text = hostile_page, HOSTILE[name]
    page.evaluate("text => { edits.length = 0; canvas.editor.load(text) }", text)
    panel = page.locator(".ll-problem")
    assert panel.is_visible() and "cannot be read" in panel.inner_text()
    message = page.evaluate("canvas.editor.problem.message")
    assert 10 < len(message) < 400 and ": " in message
    assert page.evaluate("canvas.editor.text") == text  # nothing is lost before the person says so
    Hand(page).draw((0.2, 0.2), (0.8, 0.8))
    assert page.evaluate("edits.length") == 0
    assert page.evaluate(HARMLESS) == [None, None, 1]
    with pytest.raises(LimelightError):
        document.parse_text(text)
    panel.get_by_role("button").click()
    assert page.evaluate("edits") == ['{"version":1,"highlights":[]}'] and not panel.is_visible()


def test_markup_in_a_phrase_stays_text(bare_page):
    page = bare_page()
    page.evaluate("text => { prompt = text; canvas.refresh() }", f"a cat, {MARKUP}")
    page.evaluate("text => canvas.editor.load(text)", text_of(GOOD | {"phrase": MARKUP}))
    page.wait_for_timeout(200)
    assert page.locator(".ll-phrase").input_value() == MARKUP
    assert page.evaluate(HARMLESS) == [None, None, 1]
    assert page.evaluate("edits") == []


def test_documents_that_python_reads_are_read_alike(bare_page, random_documents):
    page = bare_page()
    for text in [
        *random_documents,
        text_of(),
        text_of(GOOD | {"color": None}),
        text_of(GOOD, GOOD | {"occurrence": 2}),
    ]:
        page.evaluate("text => canvas.editor.load(text)", text)
        assert page.evaluate("canvas.editor.text") == text  # as it came, until it is edited
        written = page.evaluate("canvas.editor.kind.serialize(canvas.editor.value)")
        assert document.parse_text(written) == document.parse_text(text)
        assert page.evaluate("canvas.editor.problem") is None


RANDOM = """async seed => {
  const { strokesFrom } = await import("/limelight/strokes.js")
  const { aspectOf, onCanvas } = await import("/limelight/geometry.js")
  const { serialize, newHighlight } = await import("/limelight/document.js")
  let state = seed * 2654435761 + 1 >>> 0
  const random = (low = 0, high = 1) => {  // mulberry32
    let t = (state = state + 0x6d2b79f5 >>> 0)
    t = Math.imul(t ^ t >>> 15, t | 1)
    t ^= t + Math.imul(t ^ t >>> 7, t | 61)
    return low + (high - low) * ((t ^ t >>> 14) >>> 0) / 4294967296
  }
  const size = [[512, 512], [768, 512], [512, 896]][seed % 3], aspect = aspectOf(...size)
  const stroke = () => {
    let x = random(), y = random(), turn = random(0, 7), bend = 0, pressure = random()
    const samples = []
    for (let i = 0, n = random(5, 120); i < n; i++) {
      samples.push([x, y, pressure])
      bend = 0.8 * bend + random(-0.15, 0.15)
      turn += bend
      x += 0.012 * Math.cos(turn)
      y += 0.012 * Math.sin(turn)
      pressure = Math.min(1, Math.max(0, pressure + random(-0.1, 0.1)))
    }
    return strokesFrom(samples, Math.exp(random(Math.log(0.01), Math.log(0.3))), random(), random() < 0.3, aspect)
  }
  const box = () => {
    const x = random(-0.1, 0.8), y = random(-0.1, 0.8)
    return [{ type: "box", box: [x, y, x + random(0.03, 0.5), y + random(0.03, 0.5)] }]
  }
  const polygon = () => {
    const x = random(0.2, 0.8), y = random(0.2, 0.8), count = Math.floor(random(3, 8))
    const points = Array.from({ length: count }, (_, i) => {
      const angle = 7 * i / count, far = random(0.15, 0.3)
      return [x + far * Math.cos(angle), y + far * Math.sin(angle)]
    })
    return [{ type: "polygon", points }]
  }
  const highlights = []
  for (let i = 0; i < 3; i++) {
    const shapes = Array.from({ length: Math.floor(random(1, 4)) }, () => random()).flatMap(kind => (
      kind < 0.6 ? stroke() : kind < 0.85 ? box() : polygon())).filter(onCanvas)
    if (shapes.length) highlights.push({ ...newHighlight(`thing ${i}`), instances: [{ shapes }] })
  }
  return [serialize({ highlights }), size]
}"""

MASKS = """async ([text, width, height]) => {
  const { maskPixels } = await import("/limelight/paint.js")
  canvas.editor.load(text)
  return canvas.editor.value.highlights.map(highlight => {
    const pixels = maskPixels(highlight, width, height)
    let binary = ""
    for (let i = 0; i < pixels.length; i += 8192) binary += String.fromCharCode(...pixels.subarray(i, i + 8192))
    return btoa(binary)
  })
}"""


@pytest.fixture(scope="module")
def random_documents(chromium, web_url):
    page = open_bare(chromium, web_url)
    made = [page.evaluate(RANDOM, seed) for seed in range(50)]
    page.context.close()
    random_documents = {text: tuple(size) for text, size in made}
    assert len(random_documents) == 50
    return random_documents


def test_browser_and_python_draw_the_same_masks(bare_page, random_documents, record_property):
    page = bare_page()
    soft, hard, kinds = [], [], set()
    for text, (width, height) in random_documents.items():
        drawn = page.evaluate(MASKS, [text, width, height])
        both = either = 0
        for highlight, pixels in zip(document.parse_text(text).highlights, drawn, strict=True):
            shapes = [shape for instance in highlight.instances for shape in instance.shapes]
            kinds |= {type(shape).__name__ for shape in shapes}
            ours = raster.coverage(shapes, height, width)
            theirs = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width) / np.float32(255)
            soft.append(np.minimum(ours, theirs).sum() / np.maximum(ours, theirs).sum())
            both += ((ours >= 0.5) & (theirs >= 0.5)).sum()
            either += ((ours >= 0.5) | (theirs >= 0.5)).sum()
        hard.append(both / either)
    record_property("worst_iou", [min(soft), min(hard)])
    assert kinds == {"Stroke", "Box", "Polygon"} and len(soft) > 120 and len(hard) == 50
    assert min(soft) >= 0.98  # of each mask's coverage, also where a pen drew a stroke of two pixels
    assert min(hard) >= 0.98  # of the pixels inside, in each document


TWENTY = text_of(*[
    {"phrase": f"thing {k}", "instances": [{"shapes": [STROKE | {"points": [
        [round(0.1 + 0.8 * i / 199, 4), round(0.05 + 0.045 * k + 0.03 * np.sin(i / 9 + k), 4)] for i in range(200)
    ]}]}]} for k in range(20)
])  # fmt: skip

TIMED = """async ([tool, count]) => {
  const target = document.querySelector(".ll-live"), rect = target.getBoundingClientRect()
  const send = (kind, x, y, button) => target.dispatchEvent(new PointerEvent(kind, {
    pointerId: 1, pointerType: "mouse", bubbles: true, button, buttons: 1,
    clientX: rect.left + x * rect.width, clientY: rect.top + y * rect.height }))
  const frame = window.requestAnimationFrame, costs = []
  let cost = 0
  window.requestAnimationFrame = callback => frame(time => {
    const from = performance.now()
    callback(time)
    cost += performance.now() - from
  })
  canvas.editor.set({ tool })
  send("pointerdown", 0.5, 0.05 + 0.045 * 10, 0)
  await new Promise(done => frame(() => frame(done)))
  for (let i = 0; i < count; i++) {
    cost = 0
    const from = performance.now()
    send("pointermove", 0.5 + 0.3 * Math.sin(i / 20), 0.5 + 0.3 * Math.sin(i / 13), -1)
    cost += performance.now() - from
    await new Promise(done => frame(() => setTimeout(done)))  // the paint that the move asked for
    costs.push(cost)
  }
  send("pointerup", 0.5, 0.5, 0)
  window.requestAnimationFrame = frame
  return costs
}"""


@pytest.mark.parametrize("tool", ["stroke", "move", "eraser"])
def test_a_pointer_move_costs_less_than_4_ms(bare_page, tool, record_property):
    page = bare_page()
    page.evaluate("text => { canvas.editor.load(text); canvas.editor.set({ active: 10 }) }", TWENTY)
    page.wait_for_timeout(300)
    costs = page.evaluate(TIMED, [tool, 120])
    record_property("milliseconds", [np.median(costs), max(costs)])
    assert len(costs) == 120 and np.median(costs) < 4
    assert page.evaluate("edits.length") == 1  # the moves did what the tool is for


def test_ten_thousand_points_do_not_freeze_the_page(bare_page, record_property):
    page = bare_page()
    angle = np.linspace(0, 60, 10_000)
    points = np.stack([0.5 + angle / 130 * np.cos(angle), 0.5 + angle / 130 * np.sin(angle)], 1).round(4).tolist()
    text = text_of({"phrase": "spiral", "instances": [{"shapes": [STROKE | {"points": points, "width": 0.01}]}]})
    page.evaluate(WATCH_LONG_TASKS)
    page.evaluate("text => { setTimeout(() => canvas.editor.load(text)) }", text)
    page.wait_for_function("canvas.editor.value.highlights.length === 1")
    hand = Hand(page)
    hand.draw((0.1, 0.1), (0.9, 0.9))
    hand.key("v")
    hand.draw((0.5, 0.5), (0.6, 0.6))
    hand.key("e")
    hand.draw((0.5, 0.5), (0.6, 0.6))
    anew = "() => { setTimeout(() => canvas.editor.kind.serialize(structuredClone(canvas.editor.value))) }"
    page.evaluate(anew)
    page.wait_for_timeout(300)
    longest = max(page.evaluate("long"), default=0)
    record_property("longest_task_ms", longest)
    assert page.evaluate("edits.length") == 3 and longest < 200
