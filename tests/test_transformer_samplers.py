"""What the help pages say of samplers, on a flow model: how much of an edit of the latent is left in the next step."""

from __future__ import annotations

import pytest
import torch
from guided_runs import CIRCLE
from transformer_models import build, latent, prompt, run

from limelight.guidance.attention.samplers import CALLS, TWO_CALLS, keeps_edits

STEPS = 8
FULL = ("euler", "heun", "dpm_2", "dpmpp_2m", "ddim", "lms", "ipndm", "deis", "res_multistep", "gradient_estimation")
NOISY = ("dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde", "dpmpp_sde", "seeds_2")


@pytest.fixture(scope="module")
def model(host):
    return build("ZImage")


def kept(model, sampler: str, step: int) -> tuple[float, float]:
    """Which part of an edit, made in place at the beginning of a step, is in the latent of the next; and what is left
    of the noise there. The model says the same whatever it sees."""
    from comfy.patcher_extension import WrappersMP

    push = latent("ZImage", seed=3)
    per_step = 2 if sampler in TWO_CALLS else CALLS.get(f"sample_{sampler}", 1)

    def latents(edit: bool) -> tuple[list[torch.Tensor], list[float]]:
        seen, sigmas = [], []

        def predict(executor, x, timestep, *args, **kwargs):
            seen.append(x.clone())
            sigmas.append(float(timestep[0]))
            if edit and len(seen) - 1 == step * per_step:
                x.add_(push)
            return torch.full_like(x, 0.1)

        watched = model.clone()
        watched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "watch", predict)
        run(watched, prompt(CIRCLE), latent("ZImage"), steps=STEPS, sampler=sampler)
        return seen, sigmas

    (plain, sigmas), (edited, _) = latents(False), latents(True)
    now, after = step * per_step, (step + 1) * per_step
    change = edited[after] - plain[after]
    return float((change * push).sum() / push.square().sum()), sigmas[after] / sigmas[now]


@pytest.mark.parametrize("sampler", FULL)
def test_most_samplers_keep_an_edit_as_they_keep_noise(model, sampler):
    for step in (0, 2):
        part, noise = kept(model, sampler, step)
        assert part == pytest.approx(noise, abs=0.12)  # those that look back at earlier steps keep a little less


@pytest.mark.parametrize("sampler", NOISY)
def test_sde_samplers_forget_the_first_step_and_keep_part_of_later_ones(model, sampler):
    assert abs(kept(model, sampler, 0)[0]) < 0.05
    part, noise = kept(model, sampler, 2)
    assert 0.2 < part < noise + 0.03


def test_lcm_keeps_nothing(model):
    assert kept(model, "lcm", 0)[0] == kept(model, "lcm", 2)[0] == 0


def test_sa_solver_keeps_the_first_edit_only(model):
    first, noise = kept(model, "sa_solver", 0)
    assert first == pytest.approx(noise, abs=0.03)
    assert kept(model, "sa_solver", 2)[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("sampler", ["uni_pc", "uni_pc_bh2"])
def test_uni_pc_would_turn_an_edit_around(model, sampler):
    """So it is guided through its prediction."""
    from types import SimpleNamespace

    assert all(kept(model, sampler, step)[0] < 0 for step in (0, 2))
    assert not keeps_edits(SimpleNamespace(sampler_function=SimpleNamespace(__name__=sampler)))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde", "lcm", "sa_solver", "uni_pc"])
def test_bias_and_guidance_act_with_every_sampler(model, sampler):
    from guided_runs import attach

    from limelight.guidance.attention import bias

    x, positive = latent("ZImage"), prompt(CIRCLE)
    plain = run(model, positive, x, steps=3, sampler=sampler)
    for one in (attach(model, end_percent=1.0), bias.attach(model, end_percent=1.0)):
        changed = run(one, positive, x, steps=3, sampler=sampler)
        assert changed.isfinite().all() and not torch.allclose(changed, plain, atol=1e-3)
