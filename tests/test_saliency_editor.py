"""The Saliency Editor node, on the host's own classes. What its widget does is tested in tests/browser."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from limelight.guidance.errors import LimelightError
from limelight.guidance.saliency import maps

HERE = {"x": 0.3, "y": 0.4, "sx": 0.2, "sy": 0.1, "angle": 20, "amplitude": 0.6, "mode": "attract"}
THERE = HERE | {"x": 0.4, "sx": 0.05, "amplitude": 0.9, "mode": "suppress"}


@pytest.fixture(scope="module")
def editor(host):
    from limelight.nodes.saliency_editor import LimelightSaliencyEditor

    return LimelightSaliencyEditor


def drawing(*blobs: dict) -> str:
    return json.dumps({"version": 1, "blobs": list(blobs)})


def test_the_widget_is_a_text_that_the_front_end_draws(editor):
    inputs = editor.INPUT_TYPES()
    kind, options = inputs["required"]["blobs"]
    assert kind == "STRING" and options["widgetType"] == "LIMELIGHT_SALIENCY" and options["socketless"]
    assert options["dynamicPrompts"] is False and set(inputs["optional"]) == {"background"}


def test_a_new_node_has_the_authors_example(editor):
    saliency, suppress, *_ = editor.execute(editor.INPUT_TYPES()["required"]["blobs"][1]["default"]).args
    at = (np.arange(512) + 0.5) / 512
    wanted = 0.7 * np.exp(-(((at - 0.8) / 0.2) ** 2)[None] / 2 - (((at - 0.6) / 0.15) ** 2)[:, None] / 2)
    assert saliency.shape == (1, 512, 512) and np.abs(saliency[0].numpy() - wanted).max() < 1e-6
    assert not suppress.any()


def test_outputs(editor):
    saliency, suppress, preview, width, height = editor.execute(drawing(HERE, THERE), 256, 128).args
    assert (width, height) == (256, 128) and saliency.dtype == suppress.dtype == torch.float32
    both = maps.gaussians(maps.parse_blobs({"version": 1, "blobs": [HERE, THERE]}), 128, 256)
    assert np.array_equal(saliency[0].numpy(), both)
    alone, there = (maps.gaussians([{**blob, "mode": "attract"}], 128, 256) for blob in (HERE, THERE))
    assert suppress[0].numpy() == pytest.approx(there) and suppress.max() > 0.85
    assert both == pytest.approx(alone * (1 - there), abs=1e-6)
    assert preview.shape == (1, 128, 256, 3) and preview.min() >= 0 and preview.max() <= 1
    peak, corner = np.unravel_index(both.argmax(), both.shape), (127, 255)
    assert preview[0][peak].argmax() < preview[0][corner].argmax()  # yellow to red, and blue


@pytest.mark.parametrize("text", ["", " \n", drawing(), drawing(THERE)])
def test_without_a_blob_that_attracts_the_map_is_black_and_the_log_says_so(editor, text, caplog):
    with caplog.at_level(logging.WARNING):
        saliency, suppress, *_ = editor.execute(text, 64, 64).args
    assert not saliency.any() and "the map is flat (0 everywhere)" in caplog.text
    assert suppress.any() == ("suppress" in text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 1, "blo', "blobs: not valid JSON at line 1, column 16"),
        (7, "blobs: found 7; expected the document of the blobs as JSON text"),
        ('{"version": 2, "blobs": []}', "saliency.version: found 2; expected 1"),
        ('{"version": 1, "highlights": []}', "unknown key 'highlights'"),
        (drawing(HERE, HERE | {"sx": 0}), r"blobs\[1\].sx: found 0"),
    ],
)
def test_errors_name_the_place(editor, text, message):
    with pytest.raises(LimelightError, match=message):
        editor.execute(text, 64, 64)


def test_a_size_that_no_latent_has(editor):
    with pytest.raises(LimelightError, match="height: found 100; expected a multiple of 8"):
        editor.execute("", 64, 100)


def test_background_is_under_the_preview_and_goes_to_the_widget(editor, host):
    import folder_paths

    background = torch.zeros(2, 32, 64, 3)
    background[0, :, 32:] = 1.0
    result = editor.execute(drawing(HERE | {"x": 0.1}), 128, 64, background)
    assert result[2].shape == (1, 64, 128, 3)
    assert result[2][0, 5, -5].mean() - result[2][0, 60, 60].mean() > 0.3
    (shown,) = result.ui["limelight_background"]
    assert (Path(folder_paths.get_temp_directory()) / shown["subfolder"] / shown["filename"]).is_file()
    assert editor.execute(drawing(HERE), 64, 64).ui is None
