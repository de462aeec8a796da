"""Attention bias in the real host: off is off, what it does to attention, batches, sizes, prompts, other packs."""

from __future__ import annotations

import logging

import pytest
import torch
from guided_runs import BAR, CIRCLE, EVERYWHERE, conditioning, conditioning_for, moved, noise, sample, untouched

from limelight.guidance.attention import bias
from limelight.guidance.attention.bias import attach
from limelight.guidance.attention.bias_methods import METHODS, BiasMethod

OFF = ("red circle", [2, 3], [0.1, 0.1, 0.4, 0.4], 0.0)


# Off is off -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "highlights"),
    [
        ({"strength": 0.0}, [CIRCLE]),
        ({"cross_strength": 0.0, "self_strength": 0.0}, [CIRCLE, BAR]),
        ({}, []),
        ({}, [OFF]),
        ({"start_percent": 0.95, "end_percent": 0.95}, [CIRCLE]),
    ],
    ids=["strength 0", "both strengths 0", "no highlights", "highlight of strength 0", "window outside"],
)
@pytest.mark.parametrize("method", METHODS)
def test_off_is_bit_identical(tiny_sd15, settings, highlights, method):
    positive = conditioning(*highlights)
    biased = attach(tiny_sd15, **{**EVERYWHERE, "method": method, **settings})
    assert torch.equal(sample(tiny_sd15, positive), sample(biased, positive))


def test_other_users_of_the_model_see_nothing(tiny_sd15):
    positive = conditioning(CIRCLE, BAR)
    plain, clone, before = sample(tiny_sd15, positive), tiny_sd15.clone(), untouched(tiny_sd15)
    biased = attach(tiny_sd15, **EVERYWHERE)
    first = sample(biased, positive)
    assert moved(plain, first)
    assert untouched(tiny_sd15) == before
    assert torch.equal(plain, sample(tiny_sd15, positive))
    assert torch.equal(plain, sample(clone, positive))
    assert torch.equal(first, sample(biased, positive))
    assert torch.equal(first, sample(attach(attach(tiny_sd15, strength=2.0), **EVERYWHERE), positive))


def test_nothing_stays_after_an_error(tiny_sd15):
    class Fails(BiasMethod):
        end_percent = 1.0

        def cross(self, scores, queries, layout, strength, time):
            raise RuntimeError("broken term")

    positive = conditioning(CIRCLE)
    plain, before = sample(tiny_sd15, positive), untouched(tiny_sd15)
    biased = attach(tiny_sd15, method=Fails(), self_strength=0.0)
    with pytest.raises(RuntimeError, match="broken term"):
        sample(biased, positive)
    assert untouched(tiny_sd15) == before
    assert torch.equal(plain, sample(tiny_sd15, positive))
    assert torch.equal(sample(tiny_sd15, conditioning()), sample(biased, conditioning()))


def test_the_log_says_when_there_is_nothing_to_do(tiny_sd15, caplog):
    with caplog.at_level(logging.INFO):
        sample(attach(tiny_sd15), conditioning(), steps=1)
    assert "no highlights; attention is not biased" in caplog.text


# What it does ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["cross", "self"])
def test_each_method_acts_through_each_attention(tiny_sd15, method, kind):
    positive = conditioning(CIRCLE, BAR)
    strengths = {"cross_strength": float(kind == "cross"), "self_strength": float(kind == "self")}
    biased = attach(tiny_sd15, method=method, **EVERYWHERE, **strengths)
    assert not torch.equal(sample(tiny_sd15, positive), sample(biased, positive))


def test_strength_grows_and_the_window_is_kept(tiny_sd15):
    positive = conditioning(CIRCLE, BAR)
    plain = sample(tiny_sd15, positive, steps=6)
    changes = [
        (sample(attach(tiny_sd15, **settings), positive, steps=6) - plain).abs().mean()
        for settings in ({"strength": 0.2, **EVERYWHERE}, {"strength": 1.0, **EVERYWHERE}, {"end_percent": 0.2})
    ]
    assert 0 < changes[0] < changes[1]
    assert 0 < changes[2] < changes[1]


def test_on_a_highlight_its_phrase_has_its_share_and_far_away_none(tiny_sd15, calls):
    sample(attach(tiny_sd15, self_strength=0.0, looseness=0.0, **EVERYWHERE), conditioning(CIRCLE, BAR), steps=1)
    assert len(calls) == 10  # every cross-attention of the tiny UNet
    for q, k, heads, mask in calls:
        side = int(q.shape[1] ** 0.5)
        before, after = (
            (bias.bias_terms.logits(q, k, heads) + extra).softmax(-1).unflatten(2, (side, side)) for extra in (0, mask)
        )
        middle, cells = side // 4, (slice(side // 2, None), slice(0, side // 2))  # of the circle; where nothing is
        for words in ([2, 3], [5, 6]):
            assert after[:, :, cells[0], cells[1], words].sum(-1).max() < 2e-4
        inside = after[:, :, middle, middle, [2, 3]].sum(-1)
        assert (inside >= 0.9 * before[:, :, middle, middle, [2, 3]].sum(-1)).all()
        assert inside.min() > 0.85
        others = [column for column in range(77) if column not in (2, 3, 5, 6)]
        ratio = after[:, :, middle, middle, others] / before[:, :, middle, middle, others]
        assert torch.allclose(ratio, ratio[..., :1].expand_as(ratio), rtol=1e-3)  # all other words in proportion


def test_only_the_rows_of_the_positive_conditioning_are_biased(tiny_sd15, calls):
    seen = {}

    def keep(args):
        seen.setdefault(float(args["timestep"][0]), []).append([out.clone() for out in args["conds_out"]])
        return args["conds_out"]

    model = tiny_sd15.clone()
    model.set_model_sampler_pre_cfg_function(keep)
    positive = conditioning(CIRCLE, BAR)
    for one in (model, attach(model, **EVERYWHERE)):
        sample(one, positive, noise(2, 4, 16, 16), steps=1)
    ((plain, biased),) = seen.values()
    assert moved(plain[0], biased[0])
    assert torch.allclose(plain[1], biased[1], atol=1e-4 * float(plain[1].abs().max()))
    assert {q.shape[0] for q, *_ in calls} == {2}


def test_exact_attention_in_pieces_is_the_same(tiny_sd15, monkeypatch):
    positive = conditioning(CIRCLE, BAR)
    for method in METHODS:
        biased = attach(tiny_sd15, method=method, **EVERYWHERE)
        whole = sample(biased, positive)
        with monkeypatch.context() as patched:
            patched.setattr(bias, "PIECE", 3000)
            pieces = sample(biased, positive)
        assert torch.allclose(whole, pieces, atol=1e-3 * float(whole.abs().max()))


# Batches, sizes, prompts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_single_runs(tiny_sd15, method):
    biased = attach(tiny_sd15, method=method, **EVERYWHERE)
    positive, x = conditioning(CIRCLE, BAR), noise(3, 4, 16, 16)
    for one, alone in zip(sample(biased, positive, x), x, strict=True):
        single = sample(biased, positive, alone[None])[0]
        assert torch.allclose(one, single, atol=2e-3 * single.abs().max().item())


@pytest.mark.parametrize("size", [(8, 32), (17, 23), (6, 6), (24, 16)])
@pytest.mark.parametrize("method", METHODS)
def test_any_latent_size(tiny_sd15, size, method):
    x, positive = noise(1, 4, *size), conditioning(CIRCLE, BAR)
    biased = attach(tiny_sd15, method=method, **EVERYWHERE)
    assert moved(sample(tiny_sd15, positive, x, steps=2), sample(biased, positive, x, steps=2))


def test_the_two_sides_in_one_batch_or_apart(tiny_sd15, monkeypatch):
    positive, biased = conditioning(CIRCLE, BAR), attach(tiny_sd15, **EVERYWHERE)
    together = sample(biased, positive)
    monkeypatch.setattr(tiny_sd15.model, "memory_required", lambda *args, **kwargs: 1e30)
    apart = sample(biased, positive)
    assert torch.allclose(together, apart, atol=1e-3 * float(apart.abs().max()))


def test_prompts_over_77_tokens(tiny_sd15):
    late = ("red circle", [80, 81], [0.1, 0.1, 0.4, 0.4], 1.0)
    positive = conditioning(late, tokens=154)
    assert moved(sample(tiny_sd15, positive), sample(attach(tiny_sd15, **EVERYWHERE), positive))


def test_a_prompt_that_the_host_repeats_to_the_length_of_the_other_side(tiny_sd15, monkeypatch):
    import comfy.sample

    def run(model, **settings):
        x = noise(1, 4, 16, 16)
        sides = conditioning(CIRCLE, BAR), conditioning(seed=9, tokens=154)
        with torch.inference_mode():
            common = {"disable_pbar": True, "seed": 0, **settings}
            return comfy.sample.sample(
                model, x, 3, 3.0, "euler", "normal", *sides, torch.zeros_like(x), **common
            ).clone()

    biased = attach(tiny_sd15, **EVERYWHERE)
    together = run(biased)  # the positive's 77 columns are there twice
    assert moved(run(tiny_sd15), together)
    monkeypatch.setattr(tiny_sd15.model, "memory_required", lambda *args, **kwargs: 1e30)
    assert torch.allclose(together, run(biased), atol=1e-3 * float(together.abs().max()))


def test_several_positive_conditionings(tiny_sd15, calls):
    left = conditioning(CIRCLE, area=(16, 8, 0, 0), strength=1.0)
    right = conditioning(BAR, seed=6, area=(16, 8, 0, 8), strength=1.0)
    masked = conditioning(BAR, seed=6, mask=torch.ones(1, 16, 16), mask_strength=1.0, set_area_to_bounds=False)
    biased = attach(tiny_sd15, self_strength=0.0, **EVERYWHERE)
    for positive, scenes in ((left + right, 2), (left + masked, 2), (left + conditioning(seed=8), 1)):
        calls.clear()
        assert moved(sample(tiny_sd15, positive), sample(biased, positive, steps=3))
        assert len(calls) == 3 * 10 * scenes


def test_an_area_is_not_taken_for_the_copy_that_the_host_puts_on_the_other_side(tiny_sd15):
    """The copy has the same id; biasing it would change the negative side too."""
    seen = []

    def keep(args):
        seen.append([out.clone() for out in args["conds_out"]])
        return args["conds_out"]

    model = tiny_sd15.clone()
    model.set_model_sampler_pre_cfg_function(keep)
    positive = conditioning(CIRCLE, area=(16, 8, 0, 0), strength=1.0) + conditioning(seed=8)
    for one in (model, attach(model, **EVERYWHERE)):
        sample(one, positive, steps=1)
    plain, biased = seen
    assert moved(plain[0], biased[0])
    assert torch.allclose(plain[1], biased[1], atol=1e-4 * float(plain[1].abs().max()))


@pytest.mark.parametrize("structure", ["sd2", "sdxl"])
@pytest.mark.parametrize("method", METHODS)
def test_sd2_and_the_deep_transformers_of_sdxl(request, structure, method):
    model = request.getfixturevalue(structure)
    positive = conditioning_for(model, CIRCLE, BAR)
    plain, biased = model, attach(model, method=method, **EVERYWHERE)
    assert moved(*(sample(one, positive, noise(1, 4, 16, 24), steps=1) for one in (plain, biased)))


# Other packs ----------------------------------------------------------------------------------------------------------


def test_a_foreign_attention_override_keeps_its_say(tiny_sd15):
    def override(function, *args, **kwargs):
        return 0.5 * function(*args, **kwargs)

    positive, model = conditioning(CIRCLE), tiny_sd15.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    both = sample(attach(model, **EVERYWHERE), positive)
    assert moved(sample(model, positive), both)
    assert moved(sample(attach(tiny_sd15, **EVERYWHERE), positive), both)


def test_replaced_attention_sees_the_whole_batch_and_gets_the_difference(tiny_sd15):
    shapes = set()

    def constant(q, k, v, extra):
        shapes.add(q.shape[0])
        return torch.zeros_like(q)

    model, positive = tiny_sd15.clone(), conditioning(CIRCLE)
    for name, numbers in (("input", (1, 3, 5)), ("output", range(6))):
        for number in numbers:
            model.set_model_attn2_replace(constant, name, number)
    model.set_model_attn2_replace(constant, "middle", 0)
    plain = sample(model, positive, noise(2, 4, 16, 16), steps=1)
    biased = sample(attach(model, **EVERYWHERE, self_strength=0.0), positive, noise(2, 4, 16, 16), steps=1)
    assert moved(plain, biased)
    assert shapes == {4}


def test_merged_cells_are_left_to_the_pack_that_merged_them(tiny_sd15, core_nodes, calls):
    positive = conditioning(CIRCLE, BAR)
    hypertile = core_nodes["HyperTile"]
    merged = (hypertile.execute if hasattr(hypertile, "execute") else hypertile().patch)(tiny_sd15, 64, 2, 0, False)[0]
    assert moved(sample(merged, positive), sample(attach(merged, **EVERYWHERE), positive))


def test_regions_that_the_guided_step_has_grown(tiny_sd15, calls):
    """The bias follows `propagation.REGIONS`."""
    from comfy.patcher_extension import WrappersMP

    from limelight.guidance.attention.propagation import REGIONS

    grown = torch.zeros(1, 16, 16)
    grown[:, :, 6:12] = 1  # a thin stroke in the middle has grown to both sides

    def grow(executor, x, timestep, model_options, seed):
        ids = [cond["uuid"] for cond in executor.class_obj.conds["positive"]]
        regions = {REGIONS: {ids[0]: {0: grown}}}
        options = {**model_options, "transformer_options": {**model_options["transformer_options"], **regions}}
        return executor(x, timestep, options, seed)

    stroke = conditioning(CIRCLE)
    stroke[0][1]["limelight_highlights"]["highlights"][0]["instances"] = [
        {"shapes": [{"type": "stroke", "points": [[0.55, 0.1], [0.55, 0.9]], "width": 0.04}]}
    ]
    model = tiny_sd15.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", grow)
    shares = []
    for one in (tiny_sd15, model):
        calls.clear()
        sample(attach(one, self_strength=0.0, looseness=1.0, **EVERYWHERE), stroke, steps=1)
        q, k, heads, mask = calls[0]
        after = (bias.bias_terms.logits(q, k, heads) + mask).softmax(-1)[..., [2, 3]].sum(-1)
        shares.append(after.mean(1)[0].unflatten(0, (16, 16))[8])
    assert shares[0][8] > 0.8 and shares[1][8] > 0.8
    assert shares[0][7] < 0.5 < shares[1][7]  # a cell of the free band
    assert shares[1][1] < 0.01


# The node -------------------------------------------------------------------------------------------------------------


def test_the_node_biases(tiny_sd15):
    from limelight.nodes.highlight_bias import LimelightHighlightBias

    positive = conditioning(CIRCLE)
    model = LimelightHighlightBias.execute(tiny_sd15, 1.0, 0.0, 1.0)[0]
    assert moved(sample(tiny_sd15, positive), sample(model, positive))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strength": float("nan")}, "strength"),
        ({"strength": 3.0}, "strength.*3.*0 to 2"),
        ({"start_percent": 0.6}, "start_percent.*0.6.*after end_percent 0.5"),
        ({"end_percent": 2.0}, "end_percent"),
        ({"method": "best"}, "method.*'best'.*limelight, densediffusion, bounded"),
        ({"cross_strength": -1.0}, "cross_strength"),
        ({"self_strength": "high"}, "self_strength"),
        ({"looseness": 21.0}, "looseness"),
    ],
)
def test_the_node_refuses_bad_settings(tiny_sd15, change, words):
    from limelight.guidance.errors import LimelightError
    from limelight.nodes.highlight_bias import LimelightHighlightBias

    with pytest.raises(LimelightError, match=words):
        LimelightHighlightBias.execute(
            tiny_sd15, **{"strength": 1.0, "start_percent": 0.0, "end_percent": 0.5, **change}
        )


def test_highlights_and_conditioning_must_belong_together(tiny_sd15):
    from limelight.guidance.errors import LimelightError

    late = ("red circle", [80], [0.1, 0.1, 0.4, 0.4], 1.0)
    with pytest.raises(LimelightError, match="token 80.*77 tokens.*Highlight Bind"):
        sample(attach(tiny_sd15), conditioning(late))


def test_diffusion_transformers_are_refused(tiny_sd15):
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT

    from limelight.guidance.errors import LimelightError

    network = MMDiT(depth=2, input_size=None, device="cpu", operations=comfy.ops.disable_weight_init)
    model = tiny_sd15.clone()
    model.model = type("Model", (), {"diffusion_model": network})()
    with pytest.raises(LimelightError, match="MMDiT"):
        attach(model)
