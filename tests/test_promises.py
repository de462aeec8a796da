"""What users may rely on: off is off, batches and odd sizes, nothing left behind, and errors before sampling."""

from __future__ import annotations

import logging

import pytest
import torch
from guided_runs import (
    BAR,
    CIRCLE,
    attach,
    conditioning,
    moved,
    noise,
    sample,
    untouched,
)

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
