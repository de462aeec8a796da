"""The guided step on small random models of the real host: maps, gradients, updates, samplers."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from guided_runs import (
    BAR,
    CIRCLE,
    assert_close,
    attach,
    conditioning,
    look,
    method,
    noise,
    prepared,
    reference_look,
    sample,
)

STRIPES = torch.tensor([1.0, 0.0, -1.0, 0.0]).repeat(4)  # a gradient whose median is 0


@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
def test_gradient_is_that_of_plain_autograd(tiny_sd15, size):
    x = noise(2, 4, *size) * 5
    from limelight.guidance.attention.architectures.unet import layout_blocks

    run = prepared(tiny_sd15, conditioning(CIRCLE, BAR), x)
    expected, gradient, maps = reference_look(tiny_sd15, run, x)
    found = look(run, x)
    assert maps == len(layout_blocks(tiny_sd15.model.diffusion_model, *run.scenes[0].size)) > 1
    assert_close(found.losses, expected)
    assert gradient.abs().max() > 0
    assert_close(found.gradient, gradient)


def test_checkpointing_changes_nothing_but_memory(tiny_sd15):
    x = noise(1, 4, 16, 16) * 5
    run = prepared(tiny_sd15, conditioning(CIRCLE, BAR), x)
    expected = look(run, x)
    found = look(run, x, checkpoint=True)
    assert torch.equal(found.losses, expected.losses)
    assert_close(found.gradient, expected.gradient, 1e-5)


def test_separation_adds_the_self_attention_of_each_highlight_to_the_others(tiny_sd15):
    x = noise(1, 4, 16, 16) * 5
    run = prepared(tiny_sd15, conditioning(CIRCLE, BAR), x)
    without, with_it = look(run, x), look(run, x, separation=1.0)
    assert (with_it.losses > without.losses).all()
    assert not torch.allclose(with_it.gradient, without.gradient)
    alone = prepared(tiny_sd15, conditioning(CIRCLE), x)
    assert torch.equal(look(alone, x, separation=1.0).losses, look(alone, x).losses)


def test_separation_is_zero_where_objects_do_not_look_at_each_other(tiny_sd15):
    from limelight.guidance.attention.separation import separation_loss

    run = prepared(tiny_sd15, conditioning(CIRCLE, BAR), noise(1, 4, 16, 16))
    targets = run.scenes[0].targets(8, 8, torch.device("cpu"))
    apart = torch.eye(64).view(1, 8, 8, 64)
    mixed = torch.full((1, 8, 8, 64), 1 / 64)
    assert separation_loss(apart, targets).abs().max() < 1e-6
    assert (separation_loss(mixed, targets) > 0.05).all()
    assert (separation_loss(mixed, targets) <= 1).all()


def test_layers_with_fetch_time_patches_have_the_patched_gradient(host):
    import comfy.ops

    from limelight.guidance.attention.autograd import frozen_weights

    layers = (
        (comfy.ops.disable_weight_init.Linear(6, 3), (2, 6)),
        (comfy.ops.disable_weight_init.Conv2d(4, 3, 3, stride=2, padding=1), (2, 4, 9, 7)),
    )
    for layer, shape in layers:
        with torch.inference_mode():
            for name, value in list(layer._parameters.items()):
                layer._parameters[name] = torch.nn.Parameter(torch.randn(value.shape), requires_grad=False)
        layer.weight_function = [lambda weight: weight * 2]  # a LoRA of a model that is streamed to the GPU
        x = torch.randn(shape, requires_grad=True)
        with torch.inference_mode(False), frozen_weights(torch.nn.Sequential(layer)):
            y = layer(x)
            (found,) = torch.autograd.grad(y.square().sum(), x)
        weight, bias = layer.weight.clone() * 2, layer.bias.clone()
        if isinstance(layer, torch.nn.Linear):
            expected = torch.nn.functional.linear(x, weight, bias)
        else:
            expected = torch.nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding)
        assert torch.allclose(y, expected, atol=1e-5)
        assert_close(found, torch.autograd.grad(expected.square().sum(), x)[0], 1e-5)
        assert "forward" not in layer.__dict__


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc"])
def test_loss_falls(tiny_sd15, caplog, sampler):
    with caplog.at_level(logging.INFO):
        sample(attach(tiny_sd15, updates=6), conditioning(CIRCLE, BAR), sampler=sampler, steps=4)
    line = next(record.message for record in caplog.records if "guided" in record.message)
    first, last = re.search(r"'red circle' ([\d.]+) -> ([\d.]+)", line).groups()
    assert "4 of 4 steps" in line
    assert float(last) < float(first)


def test_updates_have_the_size_that_was_asked_for(tiny_sd15):
    x = noise(2, 4, 16, 16) * 5
    run = prepared(tiny_sd15, conditioning(CIRCLE), x)
    update = descend(run, x, updates=1, size=1e-3)
    rms = update.square().mean((1, 2, 3)).sqrt()
    assert torch.allclose(rms, torch.full((2,), 1e-3 * 26**0.5), rtol=1e-3)
    mask = torch.zeros_like(x)
    mask[..., :4] = 1
    masked = descend(run, x, updates=1, size=1e-3, mask=mask)
    assert (masked[..., 4:] == 0).all()
    assert torch.allclose(masked[..., :4].square().mean((1, 2, 3)).sqrt(), rms, rtol=1e-3)


def test_updates_do_not_tint(tiny_sd15):
    """As many cells get more of a channel as get less: the background, which is most of an image, stays as it is."""
    x = noise(2, 4, 16, 16) * 5
    run = prepared(tiny_sd15, conditioning(CIRCLE), x)
    update = descend(run, x, updates=1)
    assert update.abs().mean() > 0.1
    assert ((update > 0).sum((2, 3)) - (update < 0).sum((2, 3))).abs().max() <= 1
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., 4:12] = 1
    mask[..., 6:8] = 0.5
    masked = descend(run, x, updates=1, mask=mask)
    assert masked[..., :4].abs().max() == masked[..., 12:].abs().max() == 0
    full = masked[..., [4, 5, 8, 9, 10, 11]]
    assert (full > 0).any() and (full < 0).any()
    assert torch.equal(masked, descend(run, x, updates=1, mask=mask.expand(2, 4, 16, 16)))


def test_separation_that_cannot_be_had_is_told_once(tiny_sd15, caplog):
    with caplog.at_level(logging.INFO):
        sample(attach(tiny_sd15, separation=0.5, layers="output 5"), conditioning(CIRCLE, BAR), noise(1, 4, 40, 40))
    assert caplog.text.count("no separation of the highlights") == 1


def descend(run, x, mask=None, look=None, **changes):
    from limelight.guidance.attention.descent import Descent
    from limelight.guidance.attention.probe import Probe

    probe = Probe(run.guider.inner_model.diffusion_model, run.scenes, method({"updates": 4, **changes}))
    if look is not None:
        probe.look = look
    descent = Descent(probe, strength=1.0)
    with torch.inference_mode(), probe.differentiable(run.guider):
        return descent.update(run.guider, x.clone(), run.sigma.clone(), run.options, mask)


def test_a_step_that_makes_the_loss_worse_is_taken_back(tiny_sd15):
    from limelight.guidance.attention.probe import Look

    x = torch.zeros(2, 4, 16, 16)
    floor = 0.2 * STRIPES
    run = prepared(tiny_sd15, conditioning(CIRCLE), x)
    visited = []

    def narrow_valley(guider, at, *_):
        visited.append(at.clone())
        distance = (at - floor).square().mean((1, 2, 3)) + 1.0  # never satisfied: only the valley's floor is at 1
        wanted = torch.ones(2, 1, dtype=torch.bool)
        return Look(distance[:, None], wanted, 2 * (at - floor) / at[0].numel())

    update = descend(run, x, look=narrow_valley, updates=8, size=0.1)
    distances = [(at - floor).square().mean().item() for at in [*visited, update]]
    assert distances[1] > distances[0]  # the first step of 0.1 * sqrt(26) jumps across the valley
    assert distances[-1] < 0.2 * distances[0]


def test_samples_of_a_batch_stop_one_by_one(tiny_sd15):
    from limelight.guidance.attention.probe import Look

    x = torch.zeros(2, 4, 16, 16)
    run = prepared(tiny_sd15, conditioning(CIRCLE), x)

    def second_is_satisfied(guider, at, *_):
        gradient = STRIPES.expand_as(at) * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
        return Look(torch.tensor([[0.8], [0.0]]), torch.tensor([[True], [False]]), gradient)

    update = descend(run, x, look=second_is_satisfied)
    assert ((update[0] != 0) == (STRIPES != 0)).all()
    assert (update[1] == 0).all()


def test_gradients_that_are_not_finite_are_left_out(tiny_sd15, caplog):
    from limelight.guidance.attention.losses import placement_loss

    def broken(maps, targets, tokens):
        poison = torch.where(torch.arange(maps.shape[0]) == 0, torch.inf, 1.0)
        return placement_loss(maps, targets, tokens) * poison[:, None]

    x = noise(2, 4, 16, 16)
    positive = conditioning(CIRCLE)
    plain = sample(tiny_sd15, positive, x)
    with caplog.at_level(logging.INFO):
        guided = sample(attach(tiny_sd15, loss=broken), positive, x)
    assert torch.equal(guided[0], plain[0])
    assert guided.isfinite().all()
    assert not torch.equal(guided[1], plain[1])
    assert "not finite" in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_guided_in_single_precision(make_sd15, dtype):
    def model(dtype):
        patcher = make_sd15()
        with torch.inference_mode():
            patcher.model.diffusion_model.to(dtype)
        patcher.model.diffusion_model.dtype = dtype
        return patcher

    x = noise(1, 4, 16, 16) * 5
    single = prepared(model(torch.float32), conditioning(CIRCLE, BAR), x)
    half = prepared(model(dtype), conditioning(CIRCLE, BAR), x)
    expected, found = look(single, x), look(half, x)
    assert found.losses.dtype == found.gradient.dtype == torch.float32
    assert (found.losses - expected.losses).abs().max() < 0.02
    assert torch.cosine_similarity(found.gradient.flatten(), expected.gradient.flatten(), 0) > 0.9


def test_latents_smaller_than_a_map_and_deep_transformers(make_sd15):
    from limelight.guidance.attention.architectures.unet import all_blocks, layout_blocks

    network = make_sd15().model.diffusion_model
    assert {block.grid for block in all_blocks(network, 16, 16)} == {(16, 16), (8, 8), (4, 4)}
    assert {block.grid for block in layout_blocks(network, 16, 16)} == {(16, 16), (8, 8)}
    assert {block.grid for block in layout_blocks(network, 64, 64)} == {(16, 16)}
    assert {block.grid for block in layout_blocks(network, 6, 10)} == {(6, 10)}
    assert {block.grid for block in layout_blocks(network, 17, 40)} == {(17, 40), (9, 20)}
    assert {block.grid for block in layout_blocks(network, 400, 400)} == {(100, 100)}
    depths = {"transformer_depth": [1, 1, 8], "transformer_depth_output": [1, 1, 1, 1, 8, 8]}
    deep = make_sd15(**depths, transformer_depth_middle=8)
    blocks = layout_blocks(deep.model.diffusion_model, 64, 64)
    assert [block.key for block in blocks] == [("output", 0, index) for index in range(1, 7)]


def test_grown_regions_travel_to_the_model_calls_behind_the_guided_step(tiny_sd15):
    from comfy.patcher_extension import WrappersMP

    from limelight.guidance.attention.propagation import REGIONS

    seen = []

    def watch(executor, model, conds, x, timestep, options):
        seen.append(options["transformer_options"].get(REGIONS))
        return executor(model, conds, x, timestep, options)

    x = noise(2, 4, 16, 24)
    model = attach(tiny_sd15, propagate=True, end_percent=0.5)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "watch", watch)
    sample(model, conditioning(CIRCLE, BAR), x, steps=4)
    (regions,) = seen[-1].values()
    assert sorted(regions) == [0, 1]
    assert regions[0].shape == (2, 16, 24)
    assert 0 <= regions[0].min() and 0.9 < regions[0].max() <= 1
