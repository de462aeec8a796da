"""What users may rely on: off is off, batches and odd sizes, other packs' patches, and nothing left behind."""

from __future__ import annotations

import logging

import pytest
import torch
from guided_runs import (
    BAR,
    CIRCLE,
    attach,
    conditioning,
    lora,
    lora_hook,
    lora_names,
    noise,
    prepared,
    sample,
    untouched,
    with_override,
)


def moved(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(b.isfinite().all()) and not torch.equal(a, b)


# Promise 1: off is off ------------------------------------------------------------------------------------------------

OFF = ("red circle", [2, 3], [0.1, 0.1, 0.4, 0.4], 0.0)


@pytest.mark.parametrize(
    ("settings", "highlights"),
    [
        ({"strength": 0.0}, [CIRCLE]),
        ({"updates": 0}, [CIRCLE]),
        ({}, []),
        ({}, [OFF]),
        ({"start_percent": 0.95, "end_percent": 0.95}, [CIRCLE]),
        ({"stop_at": 100.0}, [CIRCLE]),
    ],
    ids=["strength 0", "no iterations", "no highlights", "highlight of strength 0", "window outside", "satisfied"],
)
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc"])
def test_off_is_bit_identical(tiny_sd15, settings, highlights, sampler):
    positive = conditioning(*highlights)
    plain = sample(tiny_sd15, positive, sampler=sampler)
    assert torch.equal(plain, sample(attach(tiny_sd15, **settings), positive, sampler=sampler))


def test_an_empty_document_on_the_conditioning_is_off(tiny_sd15):
    positive = conditioning(limelight_highlights={"version": 1, "text_tokens": [1, 2], "highlights": []})
    assert torch.equal(sample(tiny_sd15, positive), sample(attach(tiny_sd15), positive))


def test_one_line_in_the_log(tiny_sd15, caplog):
    for positive, words in ((conditioning(CIRCLE, BAR), "guided 3 of 3 steps in 6"), (conditioning(), "no highlights")):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            sample(attach(tiny_sd15), positive)
        lines = [record.message for record in caplog.records if "Limelight" in record.message]
        assert len(lines) == 1
        assert words in lines[0]


# Promise 2: batches, sizes, other users of the model ------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_batch_equals_single_runs(tiny_sd15, sampler):
    guided = attach(tiny_sd15, separation=0.5)
    positive, x = conditioning(CIRCLE, BAR), noise(3, 4, 16, 16)
    batch = sample(guided, positive, x, sampler)
    for one, alone in zip(batch, x, strict=True):
        single = sample(guided, positive, alone[None], sampler)[0]
        assert torch.allclose(one, single, atol=2e-3 * single.abs().max().item())


@pytest.mark.parametrize("size", [(8, 32), (17, 23), (6, 6), (24, 16)])
def test_any_latent_size(tiny_sd15, size):
    x, positive = noise(1, 4, *size), conditioning(CIRCLE, BAR)
    assert moved(sample(tiny_sd15, positive, x, steps=2), sample(attach(tiny_sd15), positive, x, steps=2))


def test_prompts_over_77_tokens(tiny_sd15):
    late = ("red circle", [80, 81], [0.1, 0.1, 0.4, 0.4], 1.0)
    positive = conditioning(late, tokens=154)
    assert moved(sample(tiny_sd15, positive), sample(attach(tiny_sd15), positive))


def test_other_users_of_the_model_see_nothing(tiny_sd15):
    positive = conditioning(CIRCLE)
    plain, clone = sample(tiny_sd15, positive), tiny_sd15.clone()
    before = untouched(tiny_sd15)
    guided = attach(tiny_sd15)
    first = sample(guided, positive)
    assert moved(plain, first)
    assert torch.equal(plain, sample(tiny_sd15, positive))
    assert torch.equal(plain, sample(clone, positive))
    assert torch.equal(first, sample(guided, positive))
    assert torch.equal(first, sample(guided.clone(), positive))
    assert untouched(tiny_sd15) == before


def test_a_second_guidance_replaces_the_first(tiny_sd15):
    positive = conditioning(CIRCLE)
    twice = attach(attach(tiny_sd15, updates=5), updates=1)
    assert torch.equal(sample(twice, positive), sample(attach(tiny_sd15, updates=1), positive))
    off = attach(attach(tiny_sd15), strength=0.0)
    assert torch.equal(sample(off, positive), sample(tiny_sd15, positive))


def test_nothing_stays_after_an_error(tiny_sd15):
    def fails(maps, targets, tokens):
        raise RuntimeError("broken loss")

    positive = conditioning(CIRCLE)
    plain, before = sample(tiny_sd15, positive), untouched(tiny_sd15)
    guided = attach(tiny_sd15, loss=fails)
    with pytest.raises(RuntimeError, match="broken loss"):
        sample(guided, positive)
    assert untouched(tiny_sd15) == before
    assert torch.equal(plain, sample(tiny_sd15, positive))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_interrupts_are_honoured_and_nothing_stays(tiny_sd15, checkpoint):
    import comfy.model_management as management

    from limelight.guidance.attention.losses import placement_loss

    def interrupts(maps, targets, tokens):
        management.interrupt_current_processing(True)
        return placement_loss(maps, targets, tokens)

    positive = conditioning(CIRCLE)
    plain, before = sample(tiny_sd15, positive), untouched(tiny_sd15)
    with pytest.raises(management.InterruptProcessingException):
        sample(attach(tiny_sd15, loss=interrupts, checkpoint=checkpoint), positive)
    assert untouched(tiny_sd15) == before
    assert torch.equal(plain, sample(tiny_sd15, positive))


def test_memory_for_the_gradient_is_asked_for(tiny_sd15):
    from comfy.patcher_extension import WrappersMP

    asked = []

    def host_side(executor, model, noise_shape, *args, **kwargs):
        asked.append(list(noise_shape))
        return executor(model, noise_shape, *args, **kwargs)

    guided = attach(tiny_sd15)
    guided.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "test", host_side)
    sample(guided, conditioning(CIRCLE), steps=1)
    sample(guided, conditioning(), steps=1)
    assert asked == [[2, 4, 16, 16], [1, 4, 16, 16]]


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim"])
def test_outside_a_noise_mask_nothing_changes(tiny_sd15, sampler):
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :9] = 1
    positive = conditioning(CIRCLE, BAR)
    plain = sample(tiny_sd15, positive, sampler=sampler, mask=mask)
    guided = sample(attach(tiny_sd15), positive, sampler=sampler, mask=mask)
    assert torch.equal(plain[..., 9:], guided[..., 9:])
    assert moved(plain[..., :9], guided[..., :9])


def test_soft_masks_and_differential_diffusion(tiny_sd15, core_nodes):
    mask = torch.linspace(0, 1, 16).view(1, 1, 1, 16).expand(1, 1, 16, 16)
    positive = conditioning(CIRCLE, BAR)
    node = core_nodes["DifferentialDiffusion"]
    model = (node.execute(tiny_sd15) if hasattr(node, "execute") else node().apply(tiny_sd15))[0]
    for base in (tiny_sd15, model):
        assert moved(sample(base, positive, mask=mask), sample(attach(base), positive, mask=mask))


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


def control_net(model, hint):
    """A tiny ControlNet of the cldm kind that the host runs, with random weights."""
    import comfy.cldm.cldm
    import comfy.controlnet
    from conftest import TINY_SD15, random_weights

    config = {k: v for k, v in TINY_SD15.items() if k not in ("out_channels", "transformer_depth_output")}
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3)
    random_weights(network, seed=4, gain=0.5)
    device = torch.device("cpu")
    return comfy.controlnet.ControlNet(network, load_device=device).set_cond_hint(hint, 1.0, (0.0, 1.0))


def test_a_control_net_is_a_constant_of_the_guided_pass(tiny_sd15):
    from guided_runs import look

    x = noise(1, 4, 16, 16) * 5
    control = control_net(tiny_sd15, torch.rand(1, 3, 128, 128))
    positive = conditioning(CIRCLE, BAR, control=control, control_apply_to_uncond=False)
    free = look(prepared(tiny_sd15, conditioning(CIRCLE, BAR), x), x)
    found = look(prepared(tiny_sd15, positive, x), x)
    assert not torch.allclose(found.losses, free.losses)
    assert found.gradient.isfinite().all()
    plain = sample(tiny_sd15, positive)
    assert moved(sample(tiny_sd15, conditioning(CIRCLE, BAR)), plain)
    assert moved(plain, sample(attach(tiny_sd15), positive))
    assert torch.equal(plain, sample(tiny_sd15, positive))
    assert not any("forward" in module.__dict__ for module in control.control_model.modules())


def grounding(model):
    """A tiny GLIGEN for the tiny UNet: one gated attention a transformer, with random weights."""
    import comfy.gligen
    import comfy.model_patcher
    from comfy.ldm.modules.attention import SpatialTransformer
    from conftest import CONTEXT, random_weights

    transformers = [m for m in model.model.diffusion_model.modules() if isinstance(m, SpatialTransformer)]
    gates = [comfy.gligen.GatedSelfAttentionDense(m.in_channels, CONTEXT, 4, m.in_channels // 4) for m in transformers]
    network = comfy.gligen.Gligen(gates, comfy.gligen.PositionNet(CONTEXT, CONTEXT), CONTEXT)
    random_weights(network, seed=6)
    with torch.inference_mode():
        for gate in gates:
            for name in ("alpha_attn", "alpha_dense"):
                gate._parameters[name] = torch.nn.Parameter(torch.tensor(0.7), requires_grad=False)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(network, load_device=device, offload_device=device)


def test_stock_gligen(tiny_sd15):
    patcher = grounding(tiny_sd15)
    with torch.inference_mode():
        boxes = [(torch.randn(1, 64), 6, 6, 1, 1)]
    positive = conditioning(CIRCLE, BAR, gligen=("position", patcher, boxes))
    plain = sample(tiny_sd15, positive)
    assert moved(sample(tiny_sd15, conditioning(CIRCLE, BAR)), plain)
    assert moved(plain, sample(attach(tiny_sd15), positive))
    assert torch.equal(plain, sample(tiny_sd15, positive))
    assert not any("forward" in module.__dict__ for module in patcher.model.modules())


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


# Samplers -------------------------------------------------------------------------------------------------------------


def sampler_names():
    try:
        from limelight.tools.in_process import import_host

        import_host()
        import comfy.samplers
    except FileNotFoundError:  # collected without a host: the tests themselves will say so
        return ["euler"]
    return comfy.samplers.KSampler.SAMPLERS


@pytest.mark.parametrize("name", sampler_names())
def test_every_stock_sampler(tiny_sd15, caplog, name):
    """It runs, guidance moves it, and the table of calls is that of the host."""
    from comfy.patcher_extension import WrappersMP
    from comfy.samplers import sampler_object

    from limelight.guidance.attention.samplers import calls_of_steps, function_name, keeps_edits

    steps, calls, positive = 5, [], conditioning(CIRCLE, BAR)
    model = tiny_sd15.clone()

    def count(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "count", count)
    plain = sample(model, positive, sampler=name, steps=steps)
    sampler = sampler_object(name)
    expected = keeps_edits(sampler)
    assert expected == (name not in ("uni_pc", "uni_pc_bh2"))
    if name == "dpm_adaptive":
        assert len(calls) % 3 == 0
    elif expected:
        assert len(calls) == sum(calls_of_steps(function_name(sampler), steps, ends_at_zero=True))
    with caplog.at_level(logging.INFO):
        guided = sample(attach(model, updates=1, end_percent=0.6), positive, sampler=name, steps=steps)
    assert moved(plain, guided)
    assert "through the prediction" not in caplog.text or not expected


def test_unknown_samplers_are_guided_through_the_prediction(tiny_sd15, caplog):
    import comfy.samplers

    class Own(comfy.samplers.Sampler):
        """A sampler class of another pack, without a sampler function."""

        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *rest):
            x = noise * sigmas[0]
            for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
                denoised = model_wrap(x, sigma * x.new_ones(len(x)), extra_args["model_options"], extra_args["seed"])
                x = denoised + (x - denoised) * following / sigma
            return x

    def run(model):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(conditioning(CIRCLE), conditioning(seed=9))
        guider.set_cfg(3.0)
        x = noise(1, 4, 16, 16)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 4)
        with torch.inference_mode():
            return guider.sample(x, torch.zeros_like(x), Own(), sigmas, disable_pbar=True, seed=0).clone()

    plain = run(tiny_sd15)
    with caplog.at_level(logging.INFO):
        assert moved(plain, run(attach(tiny_sd15)))
    assert "through the prediction" in caplog.text


# Promise 5: errors before sampling ------------------------------------------------------------------------------------


def test_diffusion_transformers_are_refused(tiny_sd15):
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT

    from limelight.guidance.errors import LimelightError
    from limelight.nodes.highlight_guidance import LimelightHighlightGuidance

    network = MMDiT(depth=2, input_size=None, device="cpu", operations=comfy.ops.disable_weight_init)
    model = tiny_sd15.clone()
    model.model = type("Model", (), {"diffusion_model": network})()
    with pytest.raises(LimelightError, match="MMDiT: where its text and image are.*connect one of those"):
        LimelightHighlightGuidance.execute(model, 1.0, 0.0, 0.5, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strength": float("nan")}, "strength"),
        ({"strength": 11.0}, "strength.*11.*0 to 10"),
        ({"start_percent": 0.6}, "start_percent.*0.6.*after end_percent 0.5"),
        ({"end_percent": 2.0}, "end_percent"),
        ({"iterations": 0}, "iterations"),
        ({"step_size": 0.0}, "step_size"),
    ],
)
def test_the_node_refuses_bad_settings(tiny_sd15, change, words):
    from limelight.guidance.errors import LimelightError
    from limelight.nodes.highlight_guidance import LimelightHighlightGuidance

    settings = {"strength": 1.0, "start_percent": 0.0, "end_percent": 0.5, "iterations": 3, **change}
    with pytest.raises(LimelightError, match=words):
        LimelightHighlightGuidance.execute(tiny_sd15, **settings)


def test_the_node_guides(tiny_sd15):
    from limelight.nodes.highlight_guidance import LimelightHighlightGuidance

    positive = conditioning(CIRCLE)
    model = LimelightHighlightGuidance.execute(tiny_sd15, 1.0, 0.0, 1.0, 1)[0]
    assert moved(sample(tiny_sd15, positive), sample(model, positive))


def test_highlights_and_conditioning_must_belong_together(tiny_sd15):
    from limelight.guidance.errors import LimelightError

    late = ("red circle", [80], [0.1, 0.1, 0.4, 0.4], 1.0)
    with pytest.raises(LimelightError, match="token 80.*77 tokens.*Highlight Bind"):
        sample(attach(tiny_sd15), conditioning(late))
    newer = conditioning(CIRCLE)
    newer[0][1]["limelight_highlights"]["version"] = 2
    with pytest.raises(LimelightError, match="version 2, expected 1"):
        sample(attach(tiny_sd15), newer)


def test_only_image_latents():
    from limelight.guidance.attention.step import size_of
    from limelight.guidance.errors import LimelightError

    with pytest.raises(LimelightError, match="found 5 dimensions .a film of 2 frames., expected 4"):
        size_of(torch.zeros(1, 4, 2, 8, 8))
