"""Phrases encoded by themselves: with the host's own encoders, weights, long prompts and both towers of SDXL."""

from __future__ import annotations

import pytest
import torch
from test_highlight_prompt import BOX, EMPTY, LONG, assert_same_encoding, document

from limelight.guidance.errors import LimelightError
from limelight.guidance.prompts.binding import KEY


@pytest.fixture(scope="module")
def encoded(host):
    """-> function (clip, text, highlights, phrases_alone) -> CONDITIONING."""
    from limelight.nodes.highlight_prompt import LimelightHighlightPrompt

    return lambda *args: LimelightHighlightPrompt.execute(*args).result[0]


def stock(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


@pytest.fixture(params=["clip_l", "clip_sdxl"])
def clip(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("text", ["a red circle and a blue bar", LONG], ids=["short", "over 77 tokens"])
def test_the_phrase_is_that_encoded_alone_and_the_rest_stays(clip, encoded, text):
    plain, swapped = (encoded(clip, text, document("blue bar"), alone)[0] for alone in (False, True))
    columns = swapped[1][KEY]["highlights"][0]["tokens"]
    assert columns == plain[1][KEY]["highlights"][0]["tokens"]
    others = [column for column in range(plain[0].shape[1]) if column not in columns]
    alone = stock(clip, "blue bar")[0][0][:, 1:3]
    assert torch.allclose(swapped[0][:, columns], alone, atol=1e-5)
    assert not torch.allclose(plain[0][:, columns], alone, atol=1e-2)
    assert torch.equal(swapped[0][:, others], plain[0][:, others])
    assert torch.equal(swapped[1]["pooled_output"], plain[1]["pooled_output"])


def test_two_phrases_over_a_chunk_border(clip_l, encoded):
    text = "a red circle" + " and" * 71 + " a big blue bar"  # the last phrase begins in column 76 of the first chunk
    (context, options), *_ = encoded(clip_l, text, document("red circle", "a big blue bar"), True)
    first, last = (item["tokens"] for item in options[KEY]["highlights"])
    assert last[0] < 77 < last[-1]
    assert torch.allclose(context[:, first], stock(clip_l, "red circle")[0][0][:, 1:3], atol=1e-5)
    assert torch.allclose(context[:, last], stock(clip_l, "a big blue bar")[0][0][:, 1:5], atol=1e-5)


def test_weights_are_those_in_the_prompt(clip, encoded):
    context = encoded(clip, "a (red circle:1.4) and a (blue:0.5) bar", document("red circle", "blue bar"), True)[0][0]
    assert torch.allclose(context[:, 2:4], stock(clip, "(red circle:1.4)")[0][0][:, 1:3], atol=1e-5)
    assert torch.allclose(context[:, 6:8], stock(clip, "(blue:0.5) bar")[0][0][:, 1:3], atol=1e-5)


def test_off_is_the_stock_encoding(clip, encoded):
    text = "a red circle and a blue bar"
    assert_same_encoding(encoded(clip, text, EMPTY, True), stock(clip, text))
    assert_same_encoding(encoded(clip, text, document("blue bar", strength=0.0), True), stock(clip, text))
    assert_same_encoding(encoded(clip, text, document("blue bar"), False), stock(clip, text))


def test_a_phrase_longer_than_a_chunk_is_refused(clip_l, encoded):
    phrase = "moon and " * 40
    with pytest.raises(LimelightError, match="phrases_alone.*80 tokens; expected at most 75.*Shorten"):
        encoded(clip_l, phrase, {"version": 1, "highlights": [{"phrase": phrase, "instances": BOX}]}, True)
