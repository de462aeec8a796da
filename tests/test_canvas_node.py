"""The Highlight Canvas node, on the host's own classes. What its widget does is tested in tests/browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from limelight.guidance.errors import LimelightError
from limelight.guidance.regions import document, overlay, raster

STROKE = {"type": "stroke", "points": [[0.2, 0.3], [0.7, 0.3]], "width": 0.1}
BOX = {"type": "box", "box": [0.5, 0.5, 0.75, 1.0]}


@pytest.fixture(scope="module")
def canvas(host):
    from limelight.nodes.highlight_canvas import LimelightHighlightCanvas

    return LimelightHighlightCanvas


def drawing(*highlights: dict) -> str:
    return json.dumps({"version": 1, "highlights": list(highlights)})


def highlight(phrase: str, *shapes: dict, **more) -> dict:
    return {"phrase": phrase, "instances": [{"shapes": [shape]} for shape in shapes], **more}


def test_the_widget_is_a_text_that_the_front_end_draws(canvas):
    inputs = canvas.INPUT_TYPES()
    kind, options = inputs["required"]["highlights"]
    assert kind == "STRING" and options["widgetType"] == "LIMELIGHT_HIGHLIGHTS" and options["socketless"]
    assert options["dynamicPrompts"] is False
    assert document.parse_text(options["default"]) == document.Document()
    assert set(inputs["optional"]) == {"background", "prompt"} and inputs["optional"]["prompt"][1]["forceInput"]


def test_outputs(canvas):
    text = drawing(
        highlight("red circle", STROKE, strength=0.5), highlight("blue bar", BOX, BOX | {"box": [0, 0, 1, 0.25]})
    )
    value, masks, preview, width, height = canvas.execute(text, 256, 128).args
    assert (width, height) == (256, 128)
    assert value == document.parse_text(text).to_dict()
    assert masks.shape == (2, 128, 256) and masks.dtype == torch.float32
    read = document.parse(value).highlights
    assert np.array_equal(masks[0].numpy(), raster.coverage(read[0].instances[0].shapes, 128, 256))
    assert masks[1, :32].min() == 1 and masks[1, 64:, 128:192].min() == 1
    assert masks[1].sum() == pytest.approx(32 * 256 + 64 * 64)
    assert preview.shape == (1, 128, 256, 3)
    colour, alpha = overlay.draw_overlay(document.parse(value), 128, 256)
    assert preview[0].numpy() == pytest.approx(0.5 * (1 - alpha) + colour)


@pytest.mark.parametrize("text", ["", "  \n", '{"version": 1, "highlights": []}'])
def test_an_empty_canvas_guides_nothing(canvas, text):
    value, masks, preview, *_ = canvas.execute(text, 64, 64).args
    assert value == {"version": 1, "highlights": []}
    assert masks.shape == (1, 64, 64) and not masks.any()
    assert (preview == 0.5).all()


def test_a_hidden_highlight_is_as_if_it_were_not_there(canvas):
    shown = highlight("blue bar", BOX)
    hidden = highlight("red circle", STROKE, hidden=True)
    assert torch.equal(canvas.execute(drawing(hidden, shown), 64, 64)[1], canvas.execute(drawing(shown), 64, 64)[1])
    value = canvas.execute(drawing(hidden, shown, {"phrase": "", "instances": [], "hidden": True}), 64, 64)[0]
    assert [one["phrase"] for one in value["highlights"]] == ["blue bar"]


def test_errors_name_the_highlight_as_the_list_shows_it(canvas):
    hidden, shown = highlight("red circle", STROKE, hidden=True), highlight("blue bar", BOX)
    with pytest.raises(LimelightError, match=r"highlights\[2\].phrase: 'blue bar'.*already has a highlight"):
        canvas.execute(drawing(hidden, shown, shown), 64, 64)
    with pytest.raises(LimelightError, match=r"highlights\[1\].instances: found none.*Draw it"):
        canvas.execute(drawing(shown, highlight("cat")), 64, 64)
    with pytest.raises(LimelightError, match=r"highlights\[0\].phrase: found ''; expected words"):
        canvas.execute(drawing(highlight("", STROKE)), 64, 64)
    with pytest.raises(LimelightError, match=r"highlights\[0\].hidden: found 'yes'; expected true or false"):
        canvas.execute(drawing(highlight("cat", STROKE, hidden="yes")), 64, 64)
    with pytest.raises(LimelightError, match="text: not valid JSON at line 1"):
        canvas.execute('{"version": 1, "highl', 64, 64)


@pytest.mark.parametrize("size", [(100, 64), (64, 100), (32, 64), (64, 5000), (64.0, 64)])
def test_sizes_that_no_latent_has(canvas, size):
    with pytest.raises(LimelightError, match="(width|height): found"):
        canvas.execute("", *size)


def test_background_is_under_the_preview_and_goes_to_the_widget(canvas, host):
    import folder_paths

    background = torch.zeros(2, 32, 64, 4)
    background[0, :, 32:] = 1.0
    result = canvas.execute(drawing(highlight("red circle", BOX)), 128, 64, background)
    preview = result[2]
    assert preview.shape == (1, 64, 128, 3)
    assert preview[0, 5, 5].max() < 0.01 and preview[0, 5, -5].min() > 0.99
    (shown,) = result.ui["limelight_background"]
    assert shown["type"] == "temp"
    assert (Path(folder_paths.get_temp_directory()) / shown["subfolder"] / shown["filename"]).is_file()
    assert canvas.execute("", 64, 64).ui is None
