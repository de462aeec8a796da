"""Names of the layers that guidance looks at."""

from __future__ import annotations

import pytest
import torch
from guided_runs import BAR, CIRCLE, conditioning_for, noise, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from limelight.guidance.attention.architectures.names import is_automatic, listing, named
from limelight.guidance.attention.architectures.unet import all_blocks, layout_blocks
from limelight.guidance.errors import LimelightError

SD15_KEYS = "input 1-2, input 4-5, input 7-8, middle, output 3-11"
SDXL_KEYS = "input 4-5.0-1, input 7-8.0-9, middle.0-9, output 0-2.0-9, output 3-5.0-1"


@pytest.mark.parametrize(
    ("kind", "text", "keys"),
    [
        ("sd15", "input 7, input 8", [("input", 7, 0), ("input", 8, 0)]),
        (
            "sd15",
            " Output 3 ,MIDDLE,input 2 - 4",
            [("input", 2, 0), ("input", 4, 0), ("middle", 0, 0), ("output", 3, 0)],
        ),
        ("sd15", "middle 0.0, middle", [("middle", 0, 0)]),
        ("sdxl", "output 0.1-2, middle.9", [("middle", 0, 9), ("output", 0, 1), ("output", 0, 2)]),
        ("sdxl", "input 4-5.1, input 5 . 0", [("input", 4, 1), ("input", 5, 0), ("input", 5, 1)]),
        ("sdxl", "output 0-5.9", [("output", number, 9) for number in (0, 1, 2)]),
    ],
)
def test_layers_by_name(request, kind, text, keys):
    model = request.getfixturevalue(kind)
    assert [block.key for block in layout_blocks(model.model.diffusion_model, 64, 64, text)] == keys


@pytest.mark.parametrize("part", ["input", "middle", "output"])
def test_a_whole_part(sdxl, part):
    network = sdxl.model.diffusion_model
    found = layout_blocks(network, 64, 64, part)
    assert found == [block for block in all_blocks(network, 64, 64) if block.key[0] == part]


def test_automatic(sdxl):
    network = sdxl.model.diffusion_model
    for text in ("auto", "", "  AUTO "):
        assert layout_blocks(network, 64, 64, text) == layout_blocks(network, 64, 64)


def test_what_there_is(sd15, sdxl):
    for model, text in ((sd15, SD15_KEYS), (sdxl, SDXL_KEYS)):
        everything = all_blocks(model.model.diffusion_model, 64, 64)
        assert listing(block.key for block in everything) == text
        assert named(text, everything) == everything


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input 3", "layers: 'input 3' is not in this model"),  # a layer without attention
        ("input 1-3", "'input 1-3' is not"),
        ("input 8-1", "'input 8-1' is not"),
        ("output 3.1", "'output 3.1' is not"),
        ("output 3.0-4", "'output 3.0-4' is not"),
        ("middle 1", "'middle 1' is not"),
        ("input 7, outptu 3", "found 'outptu 3'; expected names"),
        ("input 7,", "found ''; expected names"),
        ("7", "found '7'; expected names"),
        ("input 7.", "found 'input 7.'; expected names"),
        (None, "layers: found nothing; expected text"),
        (3, "layers: found 3; expected text"),
    ],
)
def test_layers_that_are_not_there(sd15, text, words):
    from limelight.nodes.highlight_guidance import LimelightHighlightGuidance

    for strength in (0.0, 1.0):
        with pytest.raises(LimelightError) as raised:
            LimelightHighlightGuidance.execute(sd15, strength, 0.0, 0.4, 2, layers=text)
        assert words in str(raised.value)
        assert not isinstance(text, str) or SD15_KEYS in str(raised.value)


def test_the_node_looks_where_it_is_told(sdxl):
    from limelight.nodes.highlight_guidance import LimelightHighlightGuidance

    positive, x = conditioning_for(sdxl, CIRCLE, BAR), noise(1, 4, 16, 16)

    def run(**layers):
        guided = LimelightHighlightGuidance.execute(sdxl, 1.0, 0.0, 1.0, 1, **layers).result[0]
        return sample(guided, positive, x, steps=1)

    chosen = [block.key for block in layout_blocks(sdxl.model.diffusion_model, 16, 16)]
    assert torch.equal(run(), run(layers="auto"))
    assert torch.equal(run(), run(layers=listing(chosen)))
    assert not torch.equal(run(), run(layers="input 7"))


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=40)
    | st.lists(
        st.builds(
            "{} {}{}".format,
            st.sampled_from(["input", "middle", "output", "Input", "out"]),
            st.sampled_from(["", "0", "7", "3-5", "5-3", "99999999999999999999"]),
            st.sampled_from(["", ".0", ".1-6", " . 0 - 1", ".-1"]),
        ),
        max_size=4,
    ).map(",".join)
)
def test_any_text_gives_blocks_or_our_error(sdxl, text):
    everything = all_blocks(sdxl.model.diffusion_model, 64, 64)
    if is_automatic(text):
        return
    try:
        found = named(text, everything)
    except LimelightError as error:
        assert str(error).startswith("layers: ") and SDXL_KEYS in str(error)
    else:
        assert found and found == [block for block in everything if block in found]
