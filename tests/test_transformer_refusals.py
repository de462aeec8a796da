"""What bias and guidance refuse on transformers, and in which words."""

from __future__ import annotations

import pytest
import torch
from guided_runs import CIRCLE, EVERYWHERE
from transformer_models import build, latent, prompt, run

from limelight.guidance.attention.bias import attach
from limelight.guidance.errors import LimelightError


@pytest.fixture(scope="module")
def zimage(host):
    return build("ZImage")


def test_attention_that_is_computed_elsewhere_is_an_error(zimage):
    from comfy.patcher_extension import WrappersMP

    model = zimage.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "elsewhere", lambda executor, x, *args, **kwargs: x)
    with pytest.raises(LimelightError, match="made no attention call over 96 tokens.*image 8 x 8.*none at all"):
        run(attach(model, **EVERYWHERE), prompt(CIRCLE), latent("ZImage"))


def test_text_that_another_node_changes_is_an_error(zimage):
    from comfy.patcher_extension import WrappersMP

    def cut(executor, x, t, c_concat=None, c_crossattn=None, *args, **kwargs):
        return executor(x, t, c_concat, c_crossattn[:, :-3], *args, **kwargs)

    model = zimage.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "cut", cut)
    with pytest.raises(LimelightError, match="was given 17 tokens of text for a conditioning of 20"):
        run(attach(model, **EVERYWHERE), prompt(CIRCLE), latent("ZImage"))


def test_films_and_published_methods_are_refused(zimage):
    with pytest.raises(LimelightError, match="NextDiT.*choose the method 'limelight'"):
        attach(zimage, method="bounded")
    with pytest.raises(LimelightError, match="5 dimensions"):
        film = torch.zeros(1, 16, 3, 16, 16)
        run(attach(build("QwenImage")), prompt(CIRCLE), film)


def test_what_cannot_be_seen_is_refused_with_the_reason(tiny_sd15):
    class PixArtMS(torch.nn.Module):
        pass

    model = tiny_sd15.clone()
    model.model = type("Model", (), {"diffusion_model": PixArtMS()})()
    with pytest.raises(LimelightError, match="PixArtMS: it computes attention by itself.*Z-Image"):
        attach(model)
