"""The guided step on the block structures of SD 1.5, SD 2 and SDXL, narrow, with their own text encoders."""

from __future__ import annotations

import pytest
import torch
from guided_runs import (
    BAR,
    CIRCLE,
    assert_close,
    conditioning_for,
    look,
    noise,
    prepared,
    reference_look,
    sample,
)

from limelight.guidance.attention.architectures.unet import all_blocks, layout_blocks

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


def layout(model, *size):
    return layout_blocks(model.model.diffusion_model, *size)


def test_where_attention_is(sd15, sd2, sdxl):
    for model in (sd15, sd2):
        found = all_blocks(model.model.diffusion_model, 64, 64)
        assert [block.key[:2] for block in found if block.grid == (64, 64)] == [
            *(("input", number) for number in (1, 2)),
            *(("output", number) for number in (9, 10, 11)),
        ]
        assert {block.grid for block in found} == {(64, 64), (32, 32), (16, 16), (8, 8)} and len(found) == 16
    found = all_blocks(sdxl.model.diffusion_model, 128, 128)
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
    run = prepared(model, conditioning_for(model, CIRCLE, BAR), x)
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
    run = prepared(sdxl, conditioning_for(sdxl, CIRCLE, BAR), x)
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
    run = prepared(sdxl, conditioning_for(sdxl, CIRCLE, BAR), x)
    before = look(run, x)
    step = before.gradient / before.gradient.square().mean().sqrt()
    assert look(run, x - 0.2 * step).losses.sum() < before.losses.sum()
