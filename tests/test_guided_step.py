"""The guided step on small random models of the real host: what it changes, and what it must leave alone."""

from __future__ import annotations

import logging

import pytest
import torch

STEPS = 4


def conditioning(tokens=77, highlights=None, seed=5, width=64, **options):
    """A random CONDITIONING; `highlights`: list of (phrase, tokens, box, strength)."""
    context = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed))
    if highlights is not None:
        options["limelight_highlights"] = bound(highlights)
    return [[context, options]]


def bound(highlights):
    return {
        "version": 1,
        "text_tokens": [1, 2, 3, 4, 5, 6],
        "highlights": [
            {
                "phrase": phrase,
                "tokens": tokens,
                "strength": strength,
                "instances": [{"shapes": [{"type": "box", "box": box}]}],
            }
            for phrase, tokens, box, strength in highlights
        ],
    }


CIRCLE = ("red circle", [2, 3], [0.05, 0.05, 0.45, 0.45], 1.0)
BAR = ("blue bar", [5, 6], [0.55, 0.55, 0.95, 0.95], 1.0)


def sample(model, positive, latent=(1, 4, 16, 16), sampler="euler", seed=0, steps=STEPS, cfg=3.0, mask=None, noise=None):
    """A run of the host's KSampler on random noise, as inside a prompt. -> samples."""
    import comfy.sample

    with torch.inference_mode():
        if noise is None:
            noise = torch.randn(latent, generator=torch.Generator().manual_seed(seed))
        return comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler,
            "normal",
            positive,
            conditioning(seed=9),
            torch.zeros_like(noise),
            noise_mask=mask,
            seed=seed,
            disable_pbar=True,
        ).clone()


def attach(model, **changes):
    from limelight.guidance.step import attach

    return attach(model, **{"iterations": 2, "end_percent": 1.0, "step_size": 0.05, **changes})


def test_smoke(tiny_sd15, caplog):
    positive = conditioning(highlights=[CIRCLE, BAR])
    plain = sample(tiny_sd15, positive)
    with caplog.at_level(logging.INFO):
        guided = sample(attach(tiny_sd15), positive)
    print([r.message for r in caplog.records if "Limelight" in r.message])
    assert not torch.equal(plain, guided)
    assert torch.equal(plain, sample(tiny_sd15, positive))
