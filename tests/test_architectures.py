"""The guided step on the block structures of SD 1.5, SD 2 and SDXL, narrow, with their own text encoders."""

from __future__ import annotations

import pytest
import torch
from guided_runs import (
    BAR,
    CIRCLE,
    assert_close,
    conditioning,
    look,
    noise,
    prepared,
    reference_look,
    sample,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from limelight.guidance.architectures.names import is_automatic, listing, named
from limelight.guidance.errors import LimelightError

HIGHLIGHTS = {
    "version": 1,
    "highlights": [
        {"phrase": phrase, "instances": [{"shapes": [{"type": "box", "box": box}]}]}
        for phrase, _, box, _ in (CIRCLE, BAR)
    ],
}
SD_LAYOUT = [("input", 7, 0), ("input", 8, 0), ("middle", 0, 0), ("output", 3, 0), ("output", 4, 0), ("output", 5, 0)]
# SDXL's relatives: structure, and the layout blocks of a 128x128 latent
SSD_1B = {
    "transformer_depth": [0, 0, 2, 2, 4, 4],
    "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
    "transformer_depth_middle": -1,
}
VEGA = {
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "transformer_depth_middle": -1,
}
KOALA = {
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 2, 2, 5, 5],
    "transformer_depth_middle": -1,
}
REFINER = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
    "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
    "transformer_depth_middle": 4,
}
V_PREDICTION = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([0.0, 1.0])}


@pytest.fixture(scope="module")
def sd15(make_unet):
    return make_unet("SD15")


@pytest.fixture(scope="module")
def sd2(make_unet):
    return make_unet("SD20")


@pytest.fixture(scope="module")
def sdxl(make_unet):
    return make_unet("SDXL")


def blocks(model, *size):
    from limelight.guidance.architectures.unet import all_blocks

    return all_blocks(model.model.diffusion_model, *size)


def layout(model, *size, **layers):
    from limelight.guidance.architectures.unet import layout_blocks

    return layout_blocks(model.model.diffusion_model, *size, **layers)


def positive_for(model, *highlights, **options):
    """A random conditioning of the model's width, with the pooled text that SDXL asks for."""
    config = model.model.model_config.unet_config
    if config["adm_in_channels"]:
        options["pooled_output"] = noise(1, config["adm_in_channels"] - 6 * 256, seed=7)
    return conditioning(*highlights, width=config["context_dim"], **options)


def test_where_attention_is(sd15, sd2, sdxl):
    for model in (sd15, sd2):
        found = blocks(model, 64, 64)
        assert [block.key[:2] for block in found if block.grid == (64, 64)] == [
            *(("input", number) for number in (1, 2)),
            *(("output", number) for number in (9, 10, 11)),
        ]
        assert {block.grid for block in found} == {(64, 64), (32, 32), (16, 16), (8, 8)} and len(found) == 16
    found = blocks(sdxl, 128, 128)
    assert len(found) == 70
    assert {block.key[:2] for block in found if block.grid == (64, 64)} == {
        *(("input", number) for number in (4, 5)),
        *(("output", number) for number in (3, 4, 5)),
    }
    assert sum(block.grid == (32, 32) for block in found) == 60


def test_layout(sd15, sd2, sdxl):
    assert [block.key for block in layout(sd15, 64, 64)] == SD_LAYOUT
    assert {block.grid for block in layout(sd15, 64, 64)} == {(16, 16), (8, 8)}
    assert [block.key for block in layout(sd2, 96, 96)] == SD_LAYOUT
    assert {block.grid for block in layout(sd2, 96, 96)} == {(24, 24), (12, 12)}
    deep = [("output", 0, index) for index in range(1, 7)]
    for size, grid in (((128, 128), (32, 32)), ((104, 152), (26, 38)), ((64, 64), (16, 16)), ((192, 192), (48, 48))):
        assert [block.key for block in layout(sdxl, *size)] == deep
        assert {block.grid for block in layout(sdxl, *size)} == {grid}


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (SSD_1B, [("output", 0, index) for index in (1, 2, 3)]),
        (
            VEGA,
            [
                (part, n, i)
                for part, numbers in (("input", (7, 8)), ("output", (0, 1, 2)))
                for n in numbers
                for i in (0, 1)
            ],
        ),
        (KOALA, [("output", 0, index) for index in (1, 2, 3, 4)]),
        (REFINER, [("output", 3, index) for index in (1, 2, 3)]),
    ],
    ids=["ssd-1b", "vega", "koala", "refiner"],
)
def test_layout_of_the_relatives_of_sdxl(make_unet, structure, expected):
    model = make_unet("SDXL", **structure)
    assert [block.key for block in layout(model, 128, 128)] == expected


@pytest.mark.parametrize(
    ("kind", "size", "layers", "maps"),
    [
        ("sd15", (16, 16), "auto", 10),
        ("sd2", (17, 24), "auto", 10),
        ("sdxl", (32, 32), "auto", 6),
        ("sdxl", (24, 40), "auto", 10),
        ("sdxl", (16, 24), "input 5, input 8.3, middle.0-1", 5),
        ("sd2", (16, 16), "input 4", 1),
    ],
)
def test_gradient_is_that_of_plain_autograd(request, kind, size, layers, maps):
    model = request.getfixturevalue(kind)
    x = noise(2, 4, *size) * 5
    run = prepared(model, positive_for(model, CIRCLE, BAR), x)
    losses, gradient, count = reference_look(model, run, x, layers)
    assert count == maps
    for checkpoint in (False, True):
        found = look(run, x, layers=layers, checkpoint=checkpoint)
        assert_close(found.losses, losses)
        assert gradient.abs().max() > 0
        assert_close(found.gradient, gradient)


def test_sdxl_at_its_own_size_is_seen_in_32x32(sdxl):
    seen = []

    def keep(maps, targets, tokens):
        seen.append((tuple(maps.shape), maps.detach().sum(-1)))
        return maps[..., [2, 5]].flatten(1, 2).mean(1)

    x = noise(1, 4, 128, 128) * 5
    run = prepared(sdxl, positive_for(sdxl, CIRCLE, BAR), x)
    found = look(run, x, loss=keep)
    assert (look(run, x, loss=keep, separation=1.0).losses > found.losses).all()  # self-attention is seen as well
    assert [shape for shape, _ in seen] == [(1, 32, 32, 77)] * 12
    assert all(torch.allclose(total, torch.ones(1, 32, 32)) for _, total in seen)
    assert found.gradient.isfinite().all() and found.gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("kind", "text_encoder", "size", "weights"),
    [
        ("SD15", "clip_l", 16, {}),
        ("SD20", "clip_sd2", 16, {}),
        ("SD20", "clip_sd2", 16, V_PREDICTION),
        ("SDXL", "clip_sdxl", 32, {}),
        ("SDXL", "clip_sdxl", 32, {"v_pred": torch.zeros(0)}),
    ],
    ids=["sd15", "sd2", "sd2-v", "sdxl", "sdxl-v"],
)
def test_a_prompt_is_guided(request, make_unet, kind, text_encoder, size, weights):
    from comfy.model_base import ModelType

    from limelight.nodes.highlight_guidance import LimelightHighlightGuidance
    from limelight.nodes.highlight_prompt import LimelightHighlightPrompt

    clip, model = request.getfixturevalue(text_encoder), make_unet(kind, weights=weights)
    assert model.model.model_type == (ModelType.V_PREDICTION if weights else ModelType.EPS)
    with torch.inference_mode():
        positive = LimelightHighlightPrompt.execute(clip, "a red circle and a blue bar", HIGHLIGHTS).result[0]
    x = noise(1, 4, size, size)
    plain = sample(model, positive, x)
    off = LimelightHighlightGuidance.execute(model, 0.0, 0.0, 1.0, 2).result[0]
    assert torch.equal(sample(off, positive, x), plain)
    guided = sample(LimelightHighlightGuidance.execute(model, 1.0, 0.0, 1.0, 2).result[0], positive, x)
    assert guided.isfinite().all() and (guided - plain).abs().max() > 1e-3
    assert torch.equal(sample(model, positive, x), plain)


def test_loss_falls_in_sdxl(sdxl):
    x = noise(1, 4, 32, 32) * 5
    run = prepared(sdxl, positive_for(sdxl, CIRCLE, BAR), x)
    before = look(run, x)
    step = before.gradient / before.gradient.square().mean().sqrt()
    assert look(run, x - 0.2 * step).losses.sum() < before.losses.sum()


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
    assert [block.key for block in layout(model, 64, 64, layers=text)] == keys


@pytest.mark.parametrize(("text", "key"), [("input", "input"), ("output", "output"), ("middle", "middle")])
def test_a_whole_part(sdxl, text, key):
    found = layout(sdxl, 64, 64, layers=text)
    assert found == [block for block in blocks(sdxl, 64, 64) if block.key[0] == key]


def test_automatic(sdxl):
    for text in ("auto", "", "  AUTO "):
        assert layout(sdxl, 64, 64, layers=text) == layout(sdxl, 64, 64)


def test_what_there_is(sd15, sdxl):
    for model, text in ((sd15, SD15_KEYS), (sdxl, SDXL_KEYS)):
        everything = blocks(model, 64, 64)
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

    positive, x = positive_for(sdxl, CIRCLE, BAR), noise(1, 4, 16, 16)

    def run(**layers):
        guided = LimelightHighlightGuidance.execute(sdxl, 1.0, 0.0, 1.0, 1, **layers).result[0]
        return sample(guided, positive, x, steps=1)

    chosen = [block.key for block in layout(sdxl, 16, 16)]
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
    everything = blocks(sdxl, 64, 64)
    if is_automatic(text):
        return
    try:
        found = named(text, everything)
    except LimelightError as error:
        assert str(error).startswith("layers: ") and SDXL_KEYS in str(error)
    else:
        assert found and found == [block for block in everything if block in found]
