"""Highlights grounded by GLIGEN in real runs: what the model is told, when, and what stays as it was."""

from __future__ import annotations

import pytest
import torch
from gligen_runs import differ, sample
from guided_runs import BAR, CIRCLE, conditioning, noise, untouched

from limelight.guidance.attention.grounding import RESIDUAL, Grounding, add_residual

pytest_plugins = ["gligen_fixtures"]

HALVES = (("left", [2], [0.0, 0.0, 0.5, 1.0], 1.0), ("right", [3], [0.5, 0.0, 1.0, 1.0], 1.0))


def test_a_run_is_that_of_the_hosts_own_machinery(tiny_sd15, gligen, ground, clip_l):
    """The host, given the same boxes by hand, and null grounding for the negative, samples the same."""
    with torch.inference_mode():
        said = {
            phrase: clip_l.encode_from_tokens(clip_l.tokenize(phrase), return_pooled="unprojected")[1]
            for phrase in ("red circle", "blue bar")
        }
    grid = [("red circle", [2, 3], [0.0, 0.125, 0.5, 0.5], 1.0), ("blue bar", [5, 6], [0.5, 0.25, 1.0, 1.0], 1.0)]
    boxes = [(said["red circle"], 6, 8, 2, 0), (said["blue bar"], 12, 8, 4, 8)]
    by_hand = sample(
        tiny_sd15,
        conditioning(*grid, gligen=("position", gligen, boxes)),
        conditioning(seed=9, gligen=("none", gligen, [])),
    )
    assert differ(sample(tiny_sd15, conditioning(*grid)), by_hand)
    assert torch.allclose(sample(tiny_sd15, *ground(conditioning(*grid), margin=0.0)), by_hand, atol=1e-5)


def test_the_negative_is_told_that_there_is_nothing(tiny_sd15, gligen, ground, told):
    positive, negative = ground(conditioning(CIRCLE, BAR), margin=0.0)
    both = sample(tiny_sd15, positive, negative, steps=1)
    boxes = [(0.05, 0.05, 0.45, 0.45), (0.55, 0.55, 0.95, 0.95)]
    assert told == [boxes, []]
    assert torch.equal(
        sample(tiny_sd15, positive, steps=1), both
    )  # the host copies the boxes there: they are taken out
    assert told[2:] == [boxes, []]
    assert differ(sample(tiny_sd15, conditioning(CIRCLE, BAR), steps=1), both)


def test_a_connected_document_counts_instead_of_the_bound_one(tiny_sd15, ground, told):
    stroke = {"type": "stroke", "points": [[0.25, 0.5], [0.75, 0.5]], "width": 0.1}
    instances = [{"shapes": [stroke]}, {"shapes": [{"type": "box", "box": [0.1, 0.1, 0.3, 0.3]}]}]
    off = {"phrase": "off", "strength": 0.0, "instances": instances[1:]}
    document = {"version": 1, "highlights": [{"phrase": "two dolphins", "instances": instances}, off]}
    for positive in (conditioning(), conditioning(CIRCLE)):
        told.clear()
        sample(tiny_sd15, *ground(positive, highlights=document), steps=1)
        assert told == [[(0.15, 0.4, 0.85, 0.6), (0.05, 0.05, 0.35, 0.35)], []]


def test_the_window_ends_by_sigma_whatever_the_number_of_steps(tiny_sd15, ground, told):
    sampling = tiny_sd15.model.model_sampling
    edge = float(sampling.percent_to_sigma(0.3))
    passes = []

    def spy(apply, given):
        passes.append((float(given["timestep"][0]), sorted(given["cond_or_uncond"])))
        return apply(given["input"], given["timestep"], **given["c"])

    model = tiny_sd15.clone()
    model.set_model_unet_function_wrapper(spy)
    positive, negative = ground(conditioning(CIRCLE), end_percent=0.3)
    for steps in (4, 10):
        passes.clear(), told.clear()
        sample(model, positive, negative, steps=steps)
        grounded = {sigma for sigma, _ in passes if sigma >= edge}
        later = {sigma for sigma, _ in passes if sigma < edge}
        assert grounded and later
        assert len(told) == 2 * len(grounded)
        # off means that the host is free again to run both conditionings in one pass
        assert [who for sigma, who in passes if sigma in later] == [[0, 1]] * len(later)


def test_an_area_is_told_what_it_sees(tiny_sd15, ground, told):
    areas = [{"area": (16, 8, 0, 8)}, {"area": ("percentage", 1.0, 0.5, 0.0, 0.5)}]
    whole = {"mask": torch.ones(1, 16, 16), "mask_strength": 1.0, "set_area_to_bounds": True}
    for area in (*areas, whole):
        told.clear()
        alone = ground(conditioning(*HALVES, **area), margin=0.0)
        sample(tiny_sd15, *alone, steps=1)
        right = [(0.0, 0.0, 1.0, 1.0)]
        assert told[0] == (right if area is not whole else [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)])
        assert all(boxes == [] for boxes in told[1:])
    told.clear()
    away = ground(conditioning(HALVES[0], **areas[0]), margin=0.2)
    sample(tiny_sd15, *away, steps=1)
    assert told == [[], []]  # nothing to ground in the area: only the negative prompt is told, there and as a whole


def test_several_prompts_have_boxes_of_their_own(tiny_sd15, ground, told):
    positive = conditioning(CIRCLE) + conditioning(BAR, seed=6) + conditioning(seed=7)
    sample(tiny_sd15, *ground(positive, margin=0.0), steps=1)
    assert sorted(told) == [[], [(0.05, 0.05, 0.45, 0.45)], [(0.55, 0.55, 0.95, 0.95)]]


@pytest.mark.parametrize("parallel", [False, True])
def test_a_batch_equals_single_runs_on_any_size(tiny_sd15, ground, parallel):
    conditionings = ground(conditioning(CIRCLE, BAR), parallel=parallel)
    for size in ((16, 16), (17, 23)):
        x = noise(2, 4, *size)
        batch = sample(tiny_sd15, *conditionings, x)
        assert differ(sample(tiny_sd15, conditioning(CIRCLE, BAR), x=x), batch)
        for one, alone in zip(batch, x, strict=True):
            single = sample(tiny_sd15, *conditionings, alone[None])[0]
            assert (one - single).abs().max() < 1e-4 * single.abs().max()


def test_without_a_negative_and_with_two_positives(tiny_sd15, ground):
    import comfy.samplers

    (grounded, _), plain = ground(conditioning(CIRCLE)), conditioning(CIRCLE)
    assert differ(sample(tiny_sd15, plain, cfg=1.0), sample(tiny_sd15, grounded, cfg=1.0))
    guider = comfy.samplers.CFGGuider(tiny_sd15)
    guider.inner_set_conds({"positive": grounded})
    with torch.inference_mode():
        x = noise(1, 4, 16, 16)
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([10.0, 3.0, 0.0])
        alone = guider.sample(x, torch.zeros_like(x), sampler, sigmas, disable_pbar=True)
    assert alone.isfinite().all()


OFF = ("red circle", [2, 3], [0.1, 0.1, 0.4, 0.4], 0.0)
EMPTY = {"version": 1, "highlights": []}


@pytest.mark.parametrize(
    ("highlights", "settings"),
    [
        ([CIRCLE], {"strength": 0.0}),
        ([], {}),
        ([OFF], {}),
        ([CIRCLE], {"highlights": EMPTY}),
        ([CIRCLE], {"start_percent": 0.999, "end_percent": 0.999}),
    ],
    ids=["strength 0", "no highlights", "a highlight of strength 0", "an empty document", "no step in the window"],
)
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_off_is_bit_identical(tiny_sd15, ground, highlights, settings, sampler):
    positive = conditioning(*highlights)
    plain = sample(tiny_sd15, positive, sampler=sampler)
    assert torch.equal(plain, sample(tiny_sd15, *ground(positive, **settings), sampler=sampler))


def test_nothing_is_left_behind(tiny_sd15, gligen, ground):
    positive = conditioning(CIRCLE)
    plain, before = sample(tiny_sd15, positive), untouched(tiny_sd15)
    grounded = ground(positive, parallel=True)
    first = sample(tiny_sd15, *grounded)
    modules = [sorted(module.__dict__) for module in gligen.model.modules()]
    assert torch.equal(first, sample(tiny_sd15, *grounded))
    assert torch.equal(plain, sample(tiny_sd15, positive))
    assert "gligen" not in positive[0][1]
    assert untouched(tiny_sd15) == before
    assert [sorted(module.__dict__) for module in gligen.model.modules()] == modules


def test_parallel_placement_by_hand(tiny_sd15, gligen):
    """ReGround: cross-attention and the gated attention read the same input, and both are added to it."""
    entry = (torch.randn(1, 64), 5, 7, 2, 3)
    block = tiny_sd15.model.diffusion_model.input_blocks[1][1].transformer_blocks[0]
    x, context = torch.randn(2, 48, 32), torch.randn(2, 7, 64)

    def run(parallel):
        patch = gligen.model.set_position(torch.Size((2, 4, 8, 6)), Grounding([entry], parallel=parallel), x.device)
        patches = {"middle_patch": [patch], "attn2_output_patch": [add_residual]}
        options = {"block": ("input", 1), "block_index": 0, "patches": patches}
        return block(x, context, options), patch

    with torch.inference_mode():
        first = x + block.attn1(block.norm1(x))
        sequential, patch = run(False)
        extra = {"block": ("input", 1), "block_index": 0, "n_heads": block.n_heads}
        gated = patch(first, extra) - first
        expected = first + gated + block.attn2(block.norm2(first), context)
        expected = expected + block.ff(block.norm3(expected))
        assert (run(True)[0] - expected).abs().max() < 1e-5
        before = first + gated
        before = before + block.attn2(block.norm2(before), context)
        assert (sequential - before - block.ff(block.norm3(before))).abs().max() < 1e-5
        assert differ(sequential, expected)
        assert RESIDUAL not in extra


def test_parallel_placement_in_a_run(tiny_sd15, ground):
    positive = conditioning(CIRCLE, BAR)
    sequential, parallel = (sample(tiny_sd15, *ground(positive, parallel=parallel)) for parallel in (False, True))
    plain = sample(tiny_sd15, positive)
    assert differ(sequential, parallel) and differ(plain, parallel)
    # the gates' effect is of the same size, not lost on the way
    assert 0.2 < (parallel - plain).norm() / (sequential - plain).norm() < 5
