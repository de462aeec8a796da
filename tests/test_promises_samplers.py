"""What users may rely on: every stock sampler, and samplers of other packs."""

from __future__ import annotations

import logging

import pytest
import torch
from guided_runs import BAR, CIRCLE, attach, conditioning, moved, noise, sample

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
