"""The losses of local adapters, where the answer is known."""

from __future__ import annotations

import pytest
import torch

from limelight.guidance.local.structure import MAGNITUDE, SIGNED
from limelight.training import local_loss, noise

SD = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)
T = torch.tensor([20, 250, 600, 999])


def box(top: int, left: int, bottom: int, right: int, side: int = 16) -> torch.Tensor:
    region = torch.zeros(1, 1, side, side)
    region[..., top:bottom, left:right] = 1
    return region


def random(count: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("gradients", "value"), [(SIGNED, 0.04), (MAGNITUDE, (0.040001**0.5 - 1e-3) ** 2)])
def test_a_ramp_against_nothing(gradients, value):
    """Of slope 0.2 a cell: Sobel filters whose weights sum to 1 give just that, away from the border."""
    flat = torch.zeros(1, 4, 16, 16)
    ramp = 0.2 * torch.arange(16.0).expand_as(flat)
    inside = box(2, 3, 6, 11)
    found = local_loss.edge_loss(ramp, flat, inside, gradients)
    torch.testing.assert_close(found, torch.tensor([value]), atol=1e-7, rtol=1e-5)
    whole = local_loss.edge_loss(ramp, flat, inside, gradients, by_area=False)
    torch.testing.assert_close(whole, found * 32 / 256)
    half = local_loss.edge_loss(ramp, flat, inside / 2, gradients, by_area=False)
    torch.testing.assert_close(half, whole / 4)


def test_magnitudes_are_those_of_the_definition():
    given, pad = random(2), torch.nn.ReplicationPad2d(1)(random(2))

    def shifted(y: int, x: int) -> torch.Tensor:
        return pad[..., 1 + y : 17 + y, 1 + x : 17 + x]

    across = sum(w * (shifted(y, 1) - shifted(y, -1)) for y, w in ((-1, 1), (0, 2), (1, 1))) / 8
    down = sum(w * (shifted(1, x) - shifted(-1, x)) for x, w in ((-1, 1), (0, 2), (1, 1))) / 8
    size = (across.square() + down.square() + 1e-6).sqrt()
    wanted = (size - 1e-3).square().mean((1, 2, 3))
    ones = torch.ones(2, 1, 16, 16)
    found = local_loss.edge_loss(given, torch.zeros_like(given), ones, MAGNITUDE, by_area=False)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("gradients", local_loss.GRADIENTS)
def test_only_the_region_and_its_neighbours_are_moved(gradients):
    given = random().requires_grad_()
    local_loss.edge_loss(given, random(seed=1), box(4, 4, 9, 10), gradients).sum().backward()
    moved = given.grad.abs().sum((0, 1)) > 0
    assert moved[3:10, 3:11].any() and not (moved & (box(3, 3, 10, 11)[0, 0] == 0)).any()


def test_by_area_all_regions_weigh_alike_and_none_is_no_error():
    given, clean = random(), torch.zeros(1, 4, 16, 16)
    regions = torch.cat([box(0, 0, 16, 16), box(5, 5, 8, 8), box(0, 0, 0, 0)])
    found = local_loss.edge_loss(given.expand(3, -1, -1, -1), clean.expand(3, -1, -1, -1), regions)
    assert 0.4 < float(found[1] / found[0]) < 2.5 and found[2] == 0
    whole = local_loss.edge_loss(given.expand(3, -1, -1, -1), clean.expand(3, -1, -1, -1), regions, by_area=False)
    assert float(whole[1] / whole[0]) < 0.1 and whole[2] == 0


def test_signed_edges_are_content_with_the_mean_and_magnitudes_are_not():
    """Two latents are possible, and their mean is estimated: it is the optimum of the mean squared error."""
    possible = torch.cat([random(), -random()])
    slopes = {}
    for gradients in local_loss.GRADIENTS:
        mean = possible.mean(0, keepdim=True).requires_grad_()
        ones = torch.ones(2, 1, 16, 16)
        # a little beside, since the magnitude has no slope at 0
        shown = (mean + 0.01 * random(seed=2)).expand(2, -1, -1, -1)
        local_loss.edge_loss(shown, possible, ones, gradients).mean().backward()
        slopes[gradients] = float(mean.grad.norm())
    assert slopes[SIGNED] < 0.05 * slopes[MAGNITUDE]


@pytest.mark.parametrize("prediction", noise.PREDICTIONS)
def test_the_right_output_has_no_loss(prediction):
    clean, added = random(4), random(4, seed=1)
    level = noise.flow_strengths(T / 1000) if prediction == noise.FLOW else noise.strengths(SD, T)
    noisy = noise.add_noise(clean, added, level)
    output = noise.target(clean, added, level, prediction)
    estimate = local_loss.clean_estimate(noisy, output, level, prediction)
    ones = torch.ones(4, 1, 16, 16)
    assert float(local_loss.edge_loss(estimate, clean, ones).max()) < 1e-6
    worse = local_loss.clean_estimate(noisy, output + 0.3 * random(4, seed=2), level, prediction)
    assert (local_loss.edge_loss(worse, clean, ones) > 1e-5).all()


def test_nothing_left_of_the_clean_latent_is_no_error():
    """Schedules that end in pure noise, whose epsilon says nothing."""
    level = noise.strengths(torch.zeros(1), torch.zeros(2, dtype=torch.long))
    estimate = local_loss.clean_estimate(random(2), random(2, seed=1), level, noise.EPSILON)
    assert estimate.isfinite().all()
    assert not local_loss.edge_weights(level, torch.ones(2, dtype=torch.bool), local_loss.MIN_SNR).any()


def test_weights_of_times():
    level = noise.strengths(SD, T)
    share, late = SD[T], T >= 500
    weights = {kind: local_loss.edge_weights(level, late, kind) for kind in local_loss.WEIGHTS}
    assert weights["constant"].tolist() == [1, 1, 1, 1] and weights["late"].tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(weights["noise"], 1 - share)
    torch.testing.assert_close(weights["min-snr"], (share / (1 - share)).clamp(max=5))
    # an error of the noise, seen in the clean latent, counts about the same at all times but the first ones
    error = weights["min-snr"] * (1 - share) / share
    torch.testing.assert_close(error[1:], torch.ones(3), atol=1e-3, rtol=0)
    # and not hundreds of times more at the last, as without weights
    assert float(((1 - share) / share)[-1]) > 200
    flow = local_loss.edge_weights(noise.flow_strengths(torch.tensor([0.0, 0.5, 1.0])), late[:3], "min-snr")
    assert flow.tolist() == [5, 1, 0]


def test_changes_outside():
    plain = random(3)
    regions = torch.cat([box(4, 4, 9, 10), box(0, 0, 0, 0), box(0, 0, 16, 16)])
    assert not local_loss.outside_loss(plain + regions, plain, regions).any()
    found = local_loss.outside_loss(plain + 0.5, plain, regions)
    torch.testing.assert_close(found, torch.tensor([0.25, 0.25, 0.0]))
