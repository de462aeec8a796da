"""What trainers are made of: noise, random numbers of samples, checkpoints, blobs and hints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_data import scenes

from limelight.guidance.errors import LimelightError
from limelight.guidance.saliency import maps
from limelight.tools.torchvision_ops import define_missing_operators
from limelight.training import blobs, cache, checkpoints, draws, hints, noise

define_missing_operators()

from diffusers import DDPMScheduler  # noqa: E402
from diffusers.training_utils import compute_snr  # noqa: E402

T = torch.tensor([3, 250, 700, 999])


@pytest.fixture
def latents():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 4, 8, 8, generator=generator)  # clean, noise


@pytest.fixture
def scheduler():
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def test_noise_is_that_of_diffusers(latents, scheduler):
    level = noise.strengths(scheduler.alphas_cumprod, T)
    noisy = noise.add_noise(*latents, level)
    torch.testing.assert_close(noisy, scheduler.add_noise(*latents, T))
    torch.testing.assert_close(noise.target(*latents, level, noise.V), scheduler.get_velocity(*latents, T))
    assert torch.equal(noise.target(*latents, level, noise.EPSILON), latents[1])
    torch.testing.assert_close(noise.signal_to_noise(level), compute_snr(scheduler, T))


@pytest.mark.parametrize("prediction", noise.PREDICTIONS)
def test_the_right_output_stands_for_the_clean_latent(latents, scheduler, prediction):
    flow = prediction == noise.FLOW
    level = noise.flow_strengths(T / 1000) if flow else noise.strengths(scheduler.alphas_cumprod, T)
    noisy = noise.add_noise(*latents, level)
    output = noise.target(*latents, level, prediction)
    torch.testing.assert_close(noise.clean_estimate(noisy, output, level, prediction), latents[0], atol=1e-4, rtol=1e-3)


def test_times():
    u = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    uniform, cubic = noise.uniform_times(u, 1000), noise.cubic_times(u, 1000)
    assert uniform.min() == 0 and uniform.max() == 999 and abs(uniform.float().mean() - 499.5) < 2
    assert abs(cubic.float().mean() - 749) < 2 and abs((cubic >= 900).float().mean() - 0.46) < 0.01
    assert noise.cubic_times(torch.zeros(1), 1000) == 999


def test_min_snr_weights(scheduler):
    level = noise.strengths(scheduler.alphas_cumprod, T)
    snr = compute_snr(scheduler, T)
    torch.testing.assert_close(noise.min_snr_weights(level, 5.0, noise.EPSILON), snr.clamp(max=5) / snr)
    torch.testing.assert_close(noise.min_snr_weights(level, 5.0, noise.V), snr.clamp(max=5) / (snr + 1))


def test_random_numbers_are_those_of_the_sample_and_not_of_its_batch():
    together = draws.Draws(1, [4, 5, 6, 7])
    apart = [draws.Draws(1, [4, 5]), draws.Draws(1, [6, 7])]
    for ask in (lambda one: one.normal(2, 3), lambda one: one.uniform(), lambda one: one.normal(1)):
        whole = ask(together)
        assert torch.equal(whole, torch.cat([ask(one) for one in apart]))
        assert len(set(whole.flatten().tolist())) == whole.numel()
    assert not torch.equal(draws.Draws(1, [4]).normal(5), draws.Draws(2, [4]).normal(5))
    assert not torch.equal(draws.Draws(1, [4]).normal(5), draws.Draws(1, [4], purpose="view").normal(5))


def test_every_epoch_has_each_sample_once_in_another_order():
    first, second = ([draws.place(3, epoch * 10 + i, 10) for i in range(10)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_processes_and_accumulation_share_out_the_samples_of_a_step():
    whole = [sum(part, []) for part in zip(*[iter(cache.batches(3, 5, 8, 1, 0, 1))], strict=True)]
    split = [list(cache.batches(3, 5, 2, 2, rank, 2)) for rank in range(2)]
    for i, step in enumerate(whole):
        assert sorted(step) == sorted(sum((split[rank][2 * i + micro] for rank in (0, 1) for micro in (0, 1)), []))
    assert whole[0][0] == 24


def write(folder):
    (folder / "weights").write_text("1" * 100)


def test_checkpoints_are_found_by_being_complete(tmp_path):
    for step in (5, 10, 15):
        checkpoints.save(tmp_path, step, write, {"seed": 1}, limit=2)
    assert [path.name for path in checkpoints.complete(tmp_path)] == ["checkpoint-00000010", "checkpoint-00000015"]
    (tmp_path / "checkpoint-00000020").mkdir()  # no complete.json in it
    found, about = checkpoints.find(tmp_path, "latest")
    assert found.name == "checkpoint-00000015" and about == {"step": 15, "seed": 1}
    assert checkpoints.find(tmp_path, "checkpoint-00000010")[1]["step"] == 10
    with pytest.raises(LimelightError, match="no complete checkpoint.*checkpoint-00000010, checkpoint-00000015"):
        checkpoints.find(tmp_path, "checkpoint-00000020")
    assert checkpoints.find(tmp_path / "other", "latest") is None


def test_a_save_that_fails_leaves_the_checkpoint_before_it(tmp_path):
    checkpoints.save(tmp_path, 5, write, {})

    def full(folder):
        write(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(LimelightError, match="step 10.*No space left.*Make room"):
        checkpoints.save(tmp_path, 10, full, {}, limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000005"]
    assert checkpoints.find(tmp_path, "latest")[1] == {"step": 5}


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared_away(tmp_path):
    checkpoints.save(tmp_path, 5, write, {})
    left = tmp_path / ".checkpoint-00000010.partial"
    left.mkdir()
    write(left)
    assert checkpoints.find(tmp_path, "latest")[1]["step"] == 5
    checkpoints.save(tmp_path, 10, write, {})
    assert not left.exists() and checkpoints.find(tmp_path, "latest")[1]["step"] == 10


def test_blobs_are_rendered_as_those_of_users():
    rng = np.random.default_rng(0)
    keys = ("x", "y", "sx", "sy", "angle", "amplitude")
    rows = rng.uniform((0, 0, 0.05, 0.05, -90, 0.2), (1, 1, 0.3, 0.3, 90, 1), (3, 6))
    wanted = maps.gaussians([dict(zip(keys, row, strict=True), mode="attract") for row in rows], 48, 80)
    found = blobs.render(torch.tensor(rows)[None].float(), 48, 80)[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_blobs_that_a_map_is_made_of_are_found():
    blob = {"x": 0.7, "y": 0.4, "sx": 0.2, "sy": 0.1, "angle": 30.0, "amplitude": 0.7, "mode": "attract"}
    one = torch.from_numpy(maps.gaussians([blob], 128, 192))[None]
    found = blobs.fit(one, 1)[0, 0]
    torch.testing.assert_close(found[:2], torch.tensor([0.7, 0.4]), atol=0.01, rtol=0)
    torch.testing.assert_close(found[2:4], torch.tensor([0.2, 0.1]), atol=0.01, rtol=0)
    assert abs(found[4] - 30) < 2 and abs(found[5] - 0.7) < 0.05
    assert float((blobs.render(found[None, None], 128, 192) - one).abs().max()) < 0.05


def test_maps_of_several_objects_are_near_their_blobs():
    given = np.stack([np.asarray(one["saliency"]) for one in scenes(4)]) / 255
    given = torch.from_numpy(np.concatenate([np.maximum(given, given[::-1]), np.zeros_like(given[:1])])).float()
    found = blobs.render(blobs.fit(given, 3), *given.shape[-2:])
    for one, made in zip(given[:-1], found, strict=False):
        assert np.corrcoef(one.flatten(), made.flatten())[0, 1] > 0.9
    assert found.isfinite().all() and not found[-1].any()


def test_hints_of_three_channels():
    given = torch.from_numpy(np.stack([np.asarray(one["saliency"]) for one in scenes(1)]))[:, None] / 255
    given = given.expand(400, -1, -1, -1)[..., ::4, ::4]
    u = torch.rand(400, hints.CHANNELS, generator=torch.Generator().manual_seed(0))
    made = hints.three_channels(given, u)
    attract, suppress, unsaid = made.unbind(1)
    grey = (attract == suppress).flatten(1).all(1) & (attract == unsaid).flatten(1).all(1)
    assert 0.18 < grey.float().mean() < 0.32
    own = ~grey
    assert made.min() >= 0 and made.max() <= 1
    # what is to be suppressed is dark in the picture's map, and of what nothing is said the other channels are free
    assert not suppress[own][given[own][:, 0] >= hints.DULL * given.max()].any()
    nothing = unsaid[own] > 0.99
    assert attract[own][nothing].max() < 0.02 and suppress[own][nothing].max() < 0.02
    assert 0.5 < (suppress[own].flatten(1).amax(1) > 0.1).float().mean() < 0.8
    assert 0.4 < (unsaid[own].flatten(1).amax(1) > 0.1).float().mean() < 0.6


def test_dimmed_maps_keep_their_form():
    given = torch.rand(3, 1, 4, 4)
    made = hints.dimmed(given, torch.tensor([0.0, 0.5, 1.0]), 0.4)
    torch.testing.assert_close(made / given, torch.tensor([0.4, 0.7, 1.0]).view(3, 1, 1, 1).expand_as(given))
