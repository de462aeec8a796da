"""Token Preview: the table, on CLIP and on other text encoders."""

from __future__ import annotations

import pytest
import text_encoders

from limelight.guidance.errors import LimelightError


@pytest.fixture(scope="module")
def preview(host):
    from limelight.nodes.highlight_tokens import LimelightTokenPreview

    def show(clip, *args) -> list[str]:
        output = LimelightTokenPreview.execute(clip, *args)
        assert output.ui.as_dict()["text"] == (output[0],)
        return output[0].splitlines()

    return show


def test_clip(preview, clip_sdxl):
    lines = preview(clip_sdxl, "a red circle and a (blue:1.2) bar", "blue bar")
    assert lines[0] == "7 tokens of the prompt in 77 columns of the conditioning"
    assert lines[1] == "'blue bar': columns 6, 7"
    assert lines.count("*     6  blue") == lines.count("*     7  bar") == 2  # both text encoders
    assert lines.count("      2  red") == 2


def test_a_language_model(preview, host):
    clip = text_encoders.make("z_image", host.path)
    lines = preview(clip, "a red circle, a red circle", "Red Circle", 2)
    assert lines[1] == "'Red Circle': columns 8, 9"
    assert [line for line in lines if line.startswith("*")] == ["*     8  ' red'", "*     9  ' circle'"]
    assert not any("im_start" in line for line in lines)


def test_without_a_phrase_and_errors(preview, clip_l):
    assert len(preview(clip_l, "a red circle", " ")) == 6
    with pytest.raises(LimelightError, match="'bar': not in the prompt"):
        preview(clip_l, "a red circle", "bar")
    with pytest.raises(LimelightError, match="occurrence: found 0"):
        preview(clip_l, "a red circle", "red", 0)
