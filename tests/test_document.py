"""The region document: schema, round trip, and every bad input with its message."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest

from limelight.guidance.errors import LimelightError
from limelight.guidance.regions import document, maskpng
from limelight.guidance.regions.document import Box, Document, Highlight, Instance, Polygon, Raster, Stroke

HALF_MASK = maskpng.encode(np.array([[0.0, 1.0], [0.5, 1.0]]))


def plain(*shapes: dict, **changes) -> dict:
    """A document of one highlight with one instance of ``shapes``."""
    highlight = {"phrase": "red circle", "instances": [{"shapes": list(shapes) or [box(0.1, 0.1, 0.5, 0.5)]}]}
    return {"version": 1, "highlights": [highlight | changes]}


def box(*corners) -> dict:
    return {"type": "box", "box": list(corners)}


def stroke(*points, **changes) -> dict:
    return {"type": "stroke", "points": list(points), **changes}


def polygon(*points) -> dict:
    return {"type": "polygon", "points": list(points)}


def test_round_trip():
    value = plain(
        stroke([0.2, 0.3], [1.2, 0.3], width=0.1),
        box(0, 0, 1, 0.25),
        polygon([0.5, 0.1], [0.9, 0.9], [0.1, 0.9]),
        {"type": "mask", "png": HALF_MASK},
        strength=2.5,
        occurrence=3,
        color="#e6194b",
    )
    parsed = document.parse(value)
    assert parsed.to_dict() == value
    assert document.parse(parsed.to_dict()) == parsed
    assert document.parse_text(parsed.to_json()) == parsed
    assert json.loads(parsed.to_json(indent=2)) == value
    kinds = [type(shape) for shape in parsed.highlights[0].instances[0].shapes]
    assert kinds == [Stroke, Box, Polygon, Raster]


def test_defaults():
    highlight = document.parse(plain(stroke([0.5, 0.5]))).highlights[0]
    assert (highlight.occurrence, highlight.strength, highlight.color) == (1, 1.0, None)
    assert highlight.instances[0].shapes[0].width == document.DEFAULT_WIDTH


def test_an_empty_document_is_valid():
    assert document.parse({"version": 1, "highlights": []}) == Document()


def test_documents_can_be_compared_and_hashed():
    assert hash(document.parse(plain())) == hash(document.parse(plain()))


def test_add_and_merge_keep_the_order():
    first, second = (Highlight(phrase, (Instance((Box((0, 0, 1, 1)),)),)) for phrase in ("a cat", "a dog"))
    both = document.add(document.add(None, first).to_dict(), second)
    assert both == Document((first, second))
    assert document.merge(Document((first,)), Document((second,))) == both


@pytest.mark.parametrize("phrase", ["red circle", "Red  Circle "])
def test_the_same_mention_twice(phrase):
    again = document.parse_highlight(plain(phrase=phrase)["highlights"][0])
    with pytest.raises(LimelightError, match=r"highlights\[1\]\.phrase: .*occurrence 1, already.*several instances"):
        document.add(plain(), again)
    later = document.parse_highlight(plain(phrase=phrase, occurrence=2)["highlights"][0])
    assert len(document.add(plain(), later).highlights) == 2


def test_partly_outside_is_kept():
    document.parse(plain(stroke([-0.5, 0.5], [0.1, 0.5]), box(-1, -1, 0.1, 0.1), polygon([-1, -1], [3, 0.4], [-1, 3])))


@pytest.mark.parametrize("x", [0, 1])
def test_a_stroke_along_the_border_is_kept(x):
    """Half of its width is inside."""
    document.parse(plain(stroke([x, 0.2], [x, 0.8]), stroke([x, x])))


def test_a_polygon_around_the_canvas_covers_it():
    document.parse(plain(polygon([-1, -1], [2, -1], [2, 2], [-1, 2])))


AT = r"^highlights\[0\]\.instances\[0\]\.shapes\[0\]"
BAD_SHAPES = {
    "zero-size box": (box(0.3, 0.3, 0.3, 0.6), AT + r"\.box: found a box 0 wide and 0.3 high.*larger"),
    "corners in the wrong order": (box(0.6, 0.1, 0.2, 0.5), AT + r"\.box: found a box -0.4 wide.*in this order"),
    "box outside": (box(1.1, 0.1, 1.5, 0.5), AT + ": the box lies wholly outside the canvas"),
    "box of three numbers": (box(0, 0, 1), AT + r"\.box: found 3 of them; expected a list of 4 numbers"),
    "pixels": (box(100, 100, 300, 300), AT + r"\.box\[0\]: found 100; .*divide pixels"),
    "stroke outside": (stroke([-0.2, 0.5], [-0.1, 0.9]), AT + ": the stroke lies wholly outside the canvas"),
    "stroke past a corner": (stroke([-0.3, 0.2], [0.2, -0.3]), AT + ": the stroke lies wholly outside"),
    "dot outside": (stroke([0.5, 1.2]), AT + ": the stroke lies wholly outside"),
    "polygon outside": (polygon([1.1, -1], [3, 3], [1.1, 2]), AT + ": the polygon lies wholly outside"),
    "polygon around the corner": (polygon([2.1, 0], [2.1, 2.1], [0, 2.1]), AT + ": the polygon lies wholly outside"),
    "polygon without area": (polygon([0, 0], [0.5, 0.5], [1, 1]), AT + ": a polygon whose corners lie on one line"),
    "polygon of two": (polygon([0, 0], [1, 1]), AT + r"\.points: found 2 of them; expected a list of 3 to"),
    "NaN": (stroke([0.1, float("nan")]), AT + r"\.points\[0\]\[1\]: found nan; expected a number from -10 to 10"),
    "infinity": (stroke([float("inf"), 0.1]), AT + r"\.points\[0\]\[0\]: found inf"),
    "text as coordinate": (stroke(["0.1", 0.1]), AT + r"\.points\[0\]\[0\]: found '0.1'; expected a number"),
    "true as coordinate": (stroke([True, 0.1]), AT + r"\.points\[0\]\[0\]: found True"),
    "huge number": (stroke([10**5000, 0.1]), AT + r"\.points\[0\]\[0\]: found a number of 16610 bits"),
    "three coordinates": (stroke([0.1, 0.1, 0.1]), AT + r"\.points\[0\]: found 3 of them; expected a list of 2"),
    "no points": (stroke(), AT + r"\.points: found 0 of them"),
    "zero width": (stroke([0.5, 0.5], width=0), AT + r"\.width: found 0; expected a number from 0.001 to 1"),
    "unknown type": ({"type": "circle"}, AT + ": found type 'circle'; expected a shape of type \"stroke\""),
    "no type": ({}, AT + ": found type nothing"),
    "not a shape": ("box", AT + ": found 'box'; expected a shape of type"),
    "misspelt key": (
        stroke([0.5, 0.5], widht=0.1),
        AT + ": found the unknown key 'widht'; expected type, points, width",
    ),
    "empty mask": ({"type": "mask", "png": maskpng.encode(np.zeros((4, 4)))}, AT + r"\.png: the mask is empty"),
    "no mask": ({"type": "mask"}, AT + r"\.png: found a value of type NoneType; expected base64"),
    "mask not base64": ({"type": "mask", "png": "ä" * 8}, AT + r"\.png: cannot be read as a PNG"),
    "mask cut short": ({"type": "mask", "png": HALF_MASK[:60]}, AT + r"\.png: cannot be read as a PNG"),
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_bad_shape(name):
    shape, message = BAD_SHAPES[name]
    with pytest.raises(LimelightError, match=message):
        document.parse(plain(shape))


BAD_HIGHLIGHTS = {
    "blank phrase": ({"phrase": "  "}, r"^highlights\[0\]\.phrase: found '  '; expected words of the prompt"),
    "no phrase": ({"phrase": None}, r"^highlights\[0\]\.phrase: found nothing"),
    "endless phrase": ({"phrase": "a" * 501}, r"^highlights\[0\]\.phrase: .*\(501 characters\)"),
    "half a character": ({"phrase": "\ud800"}, r"^highlights\[0\]\.phrase: .*valid Unicode"),
    "occurrence 0": ({"occurrence": 0}, r"^highlights\[0\]\.occurrence: found 0; expected a whole number from 1"),
    "occurrence 1.5": ({"occurrence": 1.5}, r"^highlights\[0\]\.occurrence: found 1.5"),
    "negative strength": ({"strength": -1}, r"^highlights\[0\]\.strength: found -1; expected a number from 0 to 10"),
    "strength 11": ({"strength": 11}, r"^highlights\[0\]\.strength: found 11"),
    "colour name": ({"color": "red"}, r"^highlights\[0\]\.color: found 'red'; expected a colour such as #e6194b"),
    "no instances": ({"instances": []}, r"^highlights\[0\]\.instances: found none, so nothing is drawn"),
    "instance without shapes": ({"instances": [{"shapes": []}]}, r"^highlights\[0\]\.instances\[0\]\.shapes: found 0"),
    "bare shapes": (
        {"instances": [box(0, 0, 1, 1)]},
        r"^highlights\[0\]\.instances\[0\]: found the unknown key 'type'",
    ),
    "misspelt strength": ({"strenght": 1}, r"^highlights\[0\]: found the unknown key 'strenght'"),
}


@pytest.mark.parametrize("name", BAD_HIGHLIGHTS)
def test_bad_highlight(name):
    changes, message = BAD_HIGHLIGHTS[name]
    with pytest.raises(LimelightError, match=message):
        document.parse(plain(**changes))


@pytest.mark.parametrize("version", [None, 0, 2, 1.0, "1", True])
def test_wrong_version(version):
    with pytest.raises(LimelightError, match=r"^version: found .*; expected 1. Correct it, or update Limelight"):
        document.parse({"version": version, "highlights": []})


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_not_a_document(value):
    with pytest.raises(LimelightError, match="^highlights document: found"):
        document.parse(value)


def test_too_many_highlights():
    one = plain()["highlights"][0]
    many = [one | {"phrase": f"thing {i}"} for i in range(65)]
    with pytest.raises(LimelightError, match="^highlights: found 65 of them; expected a list of 0 to 64"):
        document.parse({"version": 1, "highlights": many})
    full = document.parse({"version": 1, "highlights": many[:64]})
    with pytest.raises(LimelightError, match="^highlights: found 65; expected at most 64"):
        document.merge(full, document.parse(plain()))


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"version": 1,\n "highlights": [}', "^text: not valid JSON at line 2, column 17"),
        ("", "^text: not valid JSON at line 1, column 1"),
        ("[" * 100_000, "^text: the JSON is nested too deeply"),
        ("1" * 5000, "^text: a number in the JSON cannot be read"),
        (None, "^text: found nothing"),
        ('{"version": 2, "highlights": []}', "^version: found 2"),
    ],
)
def test_bad_text(text, message):
    with pytest.raises(LimelightError, match=message):
        document.parse_text(text)


def test_mask_png_keeps_soft_values():
    mask = np.linspace(0, 1, 256, dtype=np.float32).reshape(4, 64)
    assert np.abs(maskpng.decode(maskpng.encode(mask)) - mask).max() < 1e-6


@pytest.mark.parametrize("mode, size", [("RGB", (4, 4)), ("1", (4, 4)), ("I;16", (4, 4)), ("L", (4097, 1))])
def test_other_kinds_of_png(mode, size):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    with pytest.raises(LimelightError, match="expected 8-bit gray"):
        maskpng.decode(base64.b64encode(buffer.getvalue()).decode())


def test_a_png_that_claims_to_be_huge_is_refused_before_it_is_unpacked():
    data = bytearray(base64.b64decode(HALF_MASK))
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # the header's width and height; its checksum no longer fits
    with pytest.raises(LimelightError, match="^png: "):
        maskpng.decode(base64.b64encode(bytes(data)).decode())
