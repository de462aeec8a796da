"""Layer Report: the figures are those of whole matrices, in UNets and transformers."""

from __future__ import annotations

import math

import pytest
import torch
from guided_runs import BAR, CIRCLE, bound, conditioning, conditioning_for, noise, untouched
from transformer_models import build, latent, prompt, run

from limelight.guidance.attention import layers
from limelight.guidance.attention.architectures import family_of
from limelight.guidance.attention.architectures.names import named
from limelight.guidance.attention.layers import best_layers, layer_table, name_of, rate_layers
from limelight.guidance.attention.scenes import Scene
from limelight.guidance.errors import LimelightError


def report(model, positive, samples, **settings):
    from limelight.nodes.highlight_layers import LimelightLayerReport

    with torch.inference_mode():
        return LimelightLayerReport.execute(model, positive, {"samples": samples}, **settings)


@pytest.mark.parametrize("kind", ["Flux", "QwenImage", "SD3", "WAN21_T2V"])
def test_transformers(host, kind):
    model, x = build(kind), latent(kind, 2)
    run(model, prompt(CIRCLE), x)  # loads it
    before, network = untouched(model), model.model.diffusion_model
    blocks = family_of(network).all_blocks(network, 16, 16)
    with torch.inference_mode():
        scores = rate_layers(model, prompt(CIRCLE, BAR), x, 0.2)
    assert untouched(model) == before
    assert [score.key for score in scores] == [block.key for block in blocks]
    assert all(0 < score.loss and 0 < score.inside < 1 and 0 < score.outside < 1 for score in scores)
    table, best = report(model, prompt(CIRCLE, BAR), x).result
    assert table == layer_table(scores)
    assert [block.key for block in named(best, blocks)] == [score.key for score in best_layers(scores)]


def test_a_unet_and_its_names(sdxl):
    network = sdxl.model.diffusion_model
    blocks = family_of(network).all_blocks(network, 16, 16)
    with torch.inference_mode():
        scores = rate_layers(sdxl, conditioning_for(sdxl, CIRCLE), noise(1, 4, 16, 16), 0.2)
    keys = [block.key for block in blocks]
    assert [score.key for score in scores] == keys
    assert [score.grid for score in scores] == [block.grid for block in blocks]
    for key in keys:
        assert [block.key for block in named(name_of(key, keys), blocks)] == [key]
    assert layer_table(scores).count("*") == len(best_layers(scores)) >= len(scores) // 4


def test_the_figures_of_a_known_map():
    left = ("red circle", [2, 3], [0.0, 0.0, 0.5, 1.0], 1.0)
    scene = Scene({}, bound(left), (16, 16), None, 0.0)
    for share in (1.0, 0.75):  # of the phrase on the left; there is none of it on the right
        maps = torch.zeros(2, 8, 8, 20)
        maps[..., 0] = 0.5  # the start token does not count
        maps[:, :, :4, [2, 3]] = 0.25 * share
        maps[:, :, :4, 5] = 0.5 * (1 - share)
        maps[:, :, 4:, 5] = 0.5
        grid, figures = layers._rated(maps, scene)
        assert grid == (8, 8) and figures.shape == (3, 2)
        loss, inside, outside = figures.mean(1).tolist()
        assert (inside, outside) == pytest.approx((share, 0.0), abs=1e-4)
        assert loss == pytest.approx(-math.log(share) / 2, abs=1e-3)


def test_the_noise_is_that_of_the_seed(tiny_sd15):
    x = noise(1, 4, 16, 16)
    with torch.inference_mode():
        first, again, other = (rate_layers(tiny_sd15, conditioning(CIRCLE), x, 0.5, seed) for seed in (3, 3, 4))
    assert first == again != other


def test_errors(tiny_sd15):
    x = noise(1, 4, 16, 16)
    with pytest.raises(LimelightError, match="positive: found no highlights"):
        report(tiny_sd15, conditioning(), x)
    with pytest.raises(LimelightError, match="percent: found 2"):
        report(tiny_sd15, conditioning(CIRCLE), x, percent=2.0)
    with pytest.raises(LimelightError, match="not in force at 0.9"):
        report(tiny_sd15, conditioning(CIRCLE, start_percent=0.0, end_percent=0.1), x, percent=0.9)
    with pytest.raises(LimelightError, match="latent: found no samples"):
        from limelight.nodes.highlight_layers import LimelightLayerReport

        LimelightLayerReport.execute(tiny_sd15, conditioning(CIRCLE), {})
