"""What users may rely on: other packs' patches, LoRA, ControlNet, GLIGEN, regional prompts and other guiders."""

from __future__ import annotations

import logging

import torch
from foreign_models import control_net, grounding
from guided_runs import (
    BAR,
    CIRCLE,
    attach,
    conditioning,
    look,
    lora,
    lora_hook,
    lora_names,
    moved,
    noise,
    prepared,
    sample,
    with_override,
)

# Promise 3: other packs' patches --------------------------------------------------------------------------------------


def test_a_foreign_attention_override_is_kept_for_the_normal_pass(tiny_sd15):
    calls = []

    def override(function, *args, **kwargs):
        calls.append(torch.is_grad_enabled())
        return function(*args, **kwargs)

    positive = conditioning(CIRCLE)
    model = with_override(tiny_sd15, override)
    plain = sample(model, positive)
    in_plain = len(calls)
    assert moved(plain, sample(attach(model), positive))
    assert len(calls) == 2 * in_plain
    assert not any(calls)


def test_another_packs_attention_replacement_still_acts(tiny_sd15):
    seen = []

    def replacement(q, k, v, extra):
        seen.append(q.requires_grad)
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        return weights @ v * 2

    positive, model = conditioning(CIRCLE), tiny_sd15.clone()
    model.set_model_attn2_replace(replacement, "input", 1)
    model.set_model_attn2_replace(replacement, "output", 2, 0)
    plain = sample(model, positive)
    normal = len(seen)
    guided = sample(attach(model), positive)
    assert moved(plain, guided)
    assert moved(sample(attach(tiny_sd15), positive), guided)
    assert sum(seen) > 0
    assert len(seen) - sum(seen) == 2 * normal


def test_compiled_and_cached_models_are_probed_without_their_wrappers(tiny_sd15, core_nodes):
    from comfy.patcher_extension import WrappersMP

    grads = []

    def compiled(executor, *args, **kwargs):
        grads.append(torch.is_grad_enabled())
        return executor(*args, **kwargs)

    positive, model = conditioning(CIRCLE), tiny_sd15.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "torch.compile", compiled)
    assert moved(sample(model, positive), sample(attach(model), positive))
    assert grads and not any(grads)
    for name in ("EasyCache", "LazyCache"):
        cached = core_nodes[name].execute(tiny_sd15, 0.2, 0.15, 0.95, False)[0]
        assert moved(sample(cached, positive, steps=6), sample(attach(cached), positive, steps=6))


def test_loras(tiny_sd15):
    import comfy.lora

    model, positive = tiny_sd15.clone(), conditioning(CIRCLE)
    names = comfy.lora.model_lora_keys_unet(model.model, {}) | lora_names(model)
    assert model.add_patches(comfy.lora.load_lora(lora(model), names), 1.0)
    plain = sample(model, positive)
    assert moved(sample(tiny_sd15, positive), plain)
    assert moved(plain, sample(attach(model), positive))
    assert torch.equal(plain, sample(model, positive))


def test_loras_on_the_conditioning(tiny_sd15):
    """The host patches the weights while sampling, conditioning by conditioning."""
    before = sample(tiny_sd15, conditioning(CIRCLE))
    positive = conditioning(CIRCLE, hooks=lora_hook(tiny_sd15))
    plain = sample(tiny_sd15, positive)
    assert moved(before, plain)
    assert moved(plain, sample(attach(tiny_sd15), positive))
    assert torch.equal(before, sample(tiny_sd15, conditioning(CIRCLE)))


def assert_acts_and_is_left_alone(model, positive: list, network: torch.nn.Module) -> None:
    """network: what hangs on the conditioning of CIRCLE and BAR."""
    plain = sample(model, positive)
    assert moved(sample(model, conditioning(CIRCLE, BAR)), plain)
    assert moved(plain, sample(attach(model), positive))
    assert torch.equal(plain, sample(model, positive))
    assert not any("forward" in module.__dict__ for module in network.modules())


def test_a_control_net_is_a_constant_of_the_guided_pass(tiny_sd15):
    x = noise(1, 4, 16, 16) * 5
    control = control_net(tiny_sd15, torch.rand(1, 3, 128, 128))
    positive = conditioning(CIRCLE, BAR, control=control, control_apply_to_uncond=False)
    free = look(prepared(tiny_sd15, conditioning(CIRCLE, BAR), x), x)
    found = look(prepared(tiny_sd15, positive, x), x)
    assert not torch.allclose(found.losses, free.losses)
    assert found.gradient.isfinite().all()
    assert_acts_and_is_left_alone(tiny_sd15, positive, control.control_model)


def test_stock_gligen(tiny_sd15):
    patcher = grounding(tiny_sd15)
    with torch.inference_mode():
        boxes = [(torch.randn(1, 64), 6, 6, 1, 1)]
    positive = conditioning(CIRCLE, BAR, gligen=("position", patcher, boxes))
    assert_acts_and_is_left_alone(tiny_sd15, positive, patcher.model)


# Regional prompts and other guiders -----------------------------------------------------------------------------------


def test_regional_prompts(tiny_sd15):
    left = conditioning(CIRCLE, area=(16, 8, 0, 0), strength=1.0)
    right = conditioning(BAR, seed=6, area=(16, 8, 0, 8), strength=1.0)
    masked = conditioning(BAR, seed=6, mask=torch.ones(1, 16, 16), mask_strength=1.0, set_area_to_bounds=False)
    for positive in (left + right, left + masked, left + conditioning(seed=8)):
        assert moved(sample(tiny_sd15, positive), sample(attach(tiny_sd15), positive))


def test_targets_of_an_area_are_those_of_its_part_of_the_image(tiny_sd15):
    wide = ("red circle", [2, 3], [0.25, 0.0, 0.75, 0.5], 1.0)
    area = conditioning(wide, BAR, area=(16, 8, 0, 0))  # the left half: sees a box from its middle, and no bar
    run = prepared(tiny_sd15, area, noise(1, 4, 16, 16))
    (scene,) = run.scenes
    assert scene.phrases == ["red circle"]
    (target,) = scene.targets(8, 4, torch.device("cpu"))
    expected = torch.zeros(8, 4)
    expected[:4, 2:] = 1
    assert torch.equal(target.attract, expected)
    assert torch.allclose(target.attract + target.neutral + target.suppress, torch.ones(8, 4))
    outside = conditioning(BAR, area=(16, 8, 0, 0))
    assert prepared(tiny_sd15, outside, noise(1, 4, 16, 16)).scenes == []


def test_a_conditioning_that_ends_early_is_guided_while_it_lasts(tiny_sd15, caplog):
    positive = conditioning(CIRCLE, start_percent=0.0, end_percent=0.5) + conditioning(seed=7, start_percent=0.5)
    with caplog.at_level(logging.INFO):
        guided = sample(attach(tiny_sd15), positive, steps=4)
    assert moved(sample(tiny_sd15, positive, steps=4), guided)
    assert "guided 2 of 4 steps" in caplog.text


def test_guiders_with_two_positive_prompts(tiny_sd15):
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    def run(model):
        guider = Guider_DualCFG(model)
        guider.set_conds(conditioning(seed=1), conditioning(CIRCLE), conditioning(seed=9))
        guider.set_cfg(3.0, 2.0)
        x = noise(1, 4, 16, 16)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)
        with torch.inference_mode():
            euler = comfy.samplers.sampler_object("euler")
            return guider.sample(x, torch.zeros_like(x), euler, sigmas, disable_pbar=True, seed=0).clone()

    assert moved(run(tiny_sd15), run(attach(tiny_sd15)))


def test_highlights_on_the_negative_prompt_are_ignored(tiny_sd15):
    from limelight.guidance.attention.scenes import scenes

    conds = {"positive": [], "negative": [dict(conditioning(CIRCLE)[0][1], cross_attn=torch.zeros(1, 77, 64))]}
    assert scenes(conds, (16, 16), 1.0) == []
