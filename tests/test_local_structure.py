"""Local structure in the real host: edges of a reference in a region, for every model; off is off."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from guided_runs import conditioning, noise, sample, untouched

from limelight.guidance.errors import LimelightError
from limelight.guidance.local import structure
from limelight.guidance.local.structure import MAGNITUDE, SIGNED, Steps, attach, distance, edges, sobel, steer


def region(height: int = 16, width: int = 16, box=(4, 3, 12, 11)) -> torch.Tensor:
    """(1, 1, h, w): a box (top, left, bottom, right) of cells."""
    mask = torch.zeros(1, 1, height, width)
    mask[..., box[0] : box[2], box[1] : box[3]] = 1
    return mask


@pytest.fixture(autouse=True)
def the_host(host):
    """Every test here runs inside the host."""


BOX = region()[0, 0].numpy()[None]
REFERENCE = noise(1, 4, 16, 16, seed=11)


def guide(model, reference=REFERENCE, mask=BOX, start=0.0, end=1.0, feather=0.0, **changes):
    return attach(model, reference, mask, Steps(**changes), start, end, feather)


def moved(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(b.isfinite().all()) and not torch.allclose(a, b, atol=1e-3 * float(a.abs().max()))


# What it does ---------------------------------------------------------------------------------------------------------


def test_sobel_is_what_it_says():
    """A ramp across of slope 1 changes by `scale` over that many cells, away from the border."""
    ramp = torch.arange(30.0).expand(2, 3, 20, 30)
    for scale in (1, 2, 3, 4):
        across, down = sobel(ramp, scale)[..., 2 * scale : -2 * scale].unbind(1)
        assert torch.allclose(across, torch.full_like(across, float(scale)), atol=1e-5) and down.abs().max() < 1e-5
    turned = sobel(ramp.transpose(2, 3), 2)
    assert torch.equal(turned[:, 1], sobel(ramp, 2)[:, 0].transpose(2, 3))
    brute = torch.nn.functional.pad(noise(1, 1, 5, 7), [1] * 4, mode="replicate")[0, 0]
    across = [
        [sum(w * (brute[y + i, x + 2] - brute[y + i, x]) for i, w in enumerate((1, 2, 1))) / 8 * 1.0 for x in range(7)]
        for y in range(5)
    ]
    assert torch.allclose(sobel(noise(1, 1, 5, 7))[0, 0, 0], torch.tensor(across), atol=1e-6)


@pytest.mark.parametrize("gradients", [SIGNED, MAGNITUDE])
@pytest.mark.parametrize("size", [(16, 16), (13, 27), (3, 5), (1, 1)])
def test_the_distance_falls_and_only_the_region_moves(gradients, size):
    x, reference = noise(2, 4, *size), noise(1, 4, *size, seed=4)
    where = region(*size, (0, 0, max(1, size[0] // 2), max(1, size[1] // 2)))
    steps = Steps(gradients=gradients, scales=4)
    with torch.inference_mode():
        after = steer(x, reference, where, steps)
    wanted = [edges(reference, 2**level, gradients) for level in range(4)]
    before, later = (distance(each, wanted, where, gradients) for each in (x, after.clone()))
    assert (later <= before).all() and (size[0] < 3 or (later < 0.8 * before).all())
    assert torch.equal(after[(where == 0).expand_as(x)], x[(where == 0).expand_as(x)])


@pytest.mark.parametrize("size", [(16, 16), (7, 9), (2, 3)])
def test_descent_is_stable_at_every_border(size):
    """The curvature, by power iteration over the whole image, times the step stays below 2."""
    x = noise(1, 1, *size)
    wanted, everywhere = [torch.zeros(1, 2, 1, *size)] * 4, torch.ones(1, 1, *size)
    for _ in range(30):
        x = (x / x.norm()).requires_grad_()
        (x,) = torch.autograd.grad(distance(x, wanted, everywhere, SIGNED).sum(), x)
    assert structure.STEP * x.norm() < 2


def test_the_whole_reference_is_reached_up_to_a_constant():
    x, reference = noise(1, 4, 16, 16), noise(1, 4, 16, 16, seed=4)
    after = steer(x, reference, torch.ones(1, 1, 16, 16), Steps(iterations=400, scales=1, strength=1))
    off = sobel(after - reference)
    assert off.square().mean() < 0.02 * sobel(x - reference).square().mean()


def test_the_change_is_bounded():
    x, far = noise(2, 4, 16, 16), 100 * noise(1, 4, 16, 16, seed=4)
    for strength in (0.5, 1.0):
        change = (steer(x, far, region(), Steps(strength=strength)) - x).square().sum((1, 2, 3))
        length = (change / (4 * region().sum())).sqrt() / x.std((1, 2, 3))
        assert torch.allclose(length, torch.full_like(length, strength * structure.REACH), rtol=1e-3)


def test_a_prediction_that_is_not_finite_stays():
    x = noise(2, 4, 8, 8)
    x[1, 0, 3, 3] = float("nan")
    after = steer(x, noise(1, 4, 8, 8, seed=2), torch.ones(1, 1, 8, 8), Steps())
    assert torch.equal(after[1].nan_to_num(), x[1].nan_to_num()) and moved(x[:1], after[:1])


def test_coverage_is_exact():
    mask = np.zeros((1, 20, 30), np.float32)
    mask[0, 3:17, 5:22] = 1
    cells = structure.coverage(mask, 5, 6)
    brute = torch.from_numpy(mask).reshape(1, 5, 4, 6, 5).mean((2, 4))
    assert torch.allclose(cells[:, 0], brute, atol=1e-6)
    thin = np.zeros((1, 64, 64), np.float32)
    thin[0, :, 5] = 1
    assert structure.coverage(thin, 8, 8)[0, 0, :, 0].min() == pytest.approx(1 / 8)


def test_a_feather_goes_inwards_and_loses_nothing():
    mask = np.zeros((1, 64, 96), np.float32)
    mask[0, 8:56, 16:80] = mask[0, 2, 2] = 1
    hard, faded = (structure.coverage(mask, 8, 12, cells)[0, 0] for cells in (0, 2))
    assert (faded <= hard).all() and torch.equal(faded > 0, hard > 0)
    assert torch.allclose(faded[4, 2:5], torch.tensor([0.08, 0.58, 1.0]), atol=0.03)
    assert torch.equal(structure.coverage(np.ones((1, 64, 96), np.float32), 8, 12, 2), torch.ones(1, 1, 8, 12))


# In the host ----------------------------------------------------------------------------------------------------------


def test_off_is_bit_identical(tiny_sd15):
    positive = conditioning()
    plain = sample(tiny_sd15, positive)
    off = guide(tiny_sd15, strength=0.0)
    assert repr(off.model_options) == repr(tiny_sd15.model_options) and off.wrappers == tiny_sd15.wrappers
    assert torch.equal(plain, sample(off, positive))
    assert torch.equal(plain, sample(guide(tiny_sd15, start=0.97, end=0.97), positive))


def test_other_users_of_the_model_see_nothing(tiny_sd15):
    positive = conditioning()
    plain, before = sample(tiny_sd15, positive), untouched(tiny_sd15)
    guided = guide(tiny_sd15)
    first = sample(guided, positive)
    assert moved(plain, first)
    assert untouched(tiny_sd15) == before
    assert torch.equal(plain, sample(tiny_sd15, positive)) and torch.equal(first, sample(guided, positive))


def test_an_error_leaves_nothing_behind(tiny_sd15, monkeypatch):
    positive, guided = conditioning(), guide(tiny_sd15)
    whole, before, calls = sample(guided, positive), untouched(tiny_sd15), []

    def fails(*args):
        calls.append(1)
        if len(calls) == 15:
            raise RuntimeError("out of memory")
        return distance(*args)

    monkeypatch.setattr(structure, "distance", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        sample(guided, positive)
    monkeypatch.undo()
    assert untouched(tiny_sd15) == before and torch.equal(whole, sample(guided, positive))


def test_the_result_has_the_structure(tiny_sd15):
    """Of a reference that comes as VAE Encode gives it; the distance inside falls to a fraction."""
    positive = conditioning()
    plain, after = sample(tiny_sd15, positive), sample(guide(tiny_sd15), positive)
    before, later = ((sobel(x - REFERENCE) * region()).square().sum() for x in (plain, after))
    assert later < 0.25 * before


def test_a_batch_equals_single_runs(tiny_sd15):
    positive, x = conditioning(), noise(2, 4, 15, 17)
    references = noise(2, 4, 15, 17, seed=5)
    masks = torch.cat([region(15, 17), region(15, 17, (0, 0, 9, 9))])[:, 0].numpy()
    together = sample(guide(tiny_sd15, references, masks), positive, x)
    for i in range(2):
        alone = sample(guide(tiny_sd15, references[i : i + 1], masks[i : i + 1]), positive, x[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-3 * float(alone.abs().max()))
    assert moved(together[:1], sample(guide(tiny_sd15, references[1:], masks[:1]), positive, x[:1]))


def test_outside_the_noise_mask_nothing_changes(tiny_sd15):
    positive, mask = conditioning(), torch.zeros(1, 1, 16, 16)
    mask[..., 7:] = 1
    plain, guided = (sample(model, positive, mask=mask) for model in (tiny_sd15, guide(tiny_sd15)))
    assert torch.equal(plain[..., :7], guided[..., :7]) and moved(plain[..., 7:], guided[..., 7:])


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpmpp_2m", "uni_pc", "lcm"])
def test_samplers(tiny_sd15, sampler):
    positive = conditioning()
    assert moved(sample(tiny_sd15, positive, sampler=sampler), sample(guide(tiny_sd15), positive, sampler=sampler))


@pytest.mark.parametrize("kind", ["V_PREDICTION", "CONST"])
def test_prediction_types(tiny_sd15, kind):
    """The model's own way to predict is the host's business: only the predicted clean latent counts."""
    import comfy.model_sampling as sampling

    base = sampling.ModelSamplingDiscreteFlow if kind == "CONST" else sampling.ModelSamplingDiscrete
    model = tiny_sd15.clone()
    own = type("Own", (base, getattr(sampling, kind)), {})(tiny_sd15.model.model_config)
    model.add_object_patch("model_sampling", own)
    positive = conditioning()
    plain, after = sample(model, positive), sample(guide(model), positive)
    before, later = ((sobel(x - REFERENCE) * region()).square().sum() for x in (plain, after))
    assert later < 0.25 * before


def test_what_does_not_fit_is_said_before_the_first_step(tiny_sd15, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("the model was called")

    monkeypatch.setattr(type(tiny_sd15.model), "apply_model", never)
    positive, x = conditioning(), noise(3, 4, 16, 16)
    for given, match in (
        ({"reference": noise(2, 4, 16, 16)}, "reference: found 2 for 3 images"),
        ({"reference": noise(1, 4, 16, 24)}, "reference: found 24 x 16 cells; the image's latent has 16 x 16 cells"),
        ({"mask": np.repeat(BOX, 2, 0)}, "mask: found 2 for 3 images"),
        ({"mask": np.ones((1, 64, 128), np.float32)}, "mask: found 128 x 64 pixels"),
    ):
        with pytest.raises(LimelightError, match=match):
            sample(guide(tiny_sd15, **given), positive, x)


def test_another_size_is_resized(tiny_sd15):
    big = torch.nn.functional.interpolate(noise(1, 4, 8, 8, seed=3), (32, 32), mode="bilinear")
    positive = conditioning()
    small = structure.resized(big, 16, 16)
    mask = np.kron(BOX[0], np.ones((8, 8), np.float32))[None]
    results = [sample(guide(tiny_sd15, each, mask), positive) for each in (big, small)]
    assert torch.allclose(*results, atol=1e-3 * float(results[0].abs().max()))


# The node -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(host):
    from limelight.nodes import local_control_structure as module

    def run(*args, **kwargs):
        with torch.inference_mode():
            return module.LimelightLocalStructure.execute(*args, **kwargs).result[0]

    return SimpleNamespace(run=run)


def test_the_node(node, tiny_sd15):
    positive, mask = conditioning(), torch.from_numpy(BOX)
    given = {"reference": {"samples": REFERENCE}, "mask": mask, "strength": 1.0, "start_percent": 0.0}
    given |= {"model": tiny_sd15, "end_percent": 1.0, "feather": 0.0}
    assert torch.equal(sample(node.run(**given), positive), sample(guide(tiny_sd15), positive))
    for wrong, match in (
        ({"mask": torch.zeros(1, 8, 8)}, "mask: found an empty mask"),
        ({"reference": {"samples": torch.zeros(1, 4, 8, 8)}}, "reference: found an empty latent"),
        (
            {"reference": {"samples": noise(1, 16, 8, 8)}},
            "reference: found a latent of 16 channels; the model's have 4",
        ),
        ({"reference": {"samples": noise(1, 4, 5, 8, 8)}}, "reference: found 5 frames"),
        ({"reference": None}, "reference: found nothing"),
        ({"start_percent": 0.7, "end_percent": 0.3}, "start_percent: found 0.7, which is after end_percent 0.3"),
        ({"gradients": "other"}, "gradients: found 'other'"),
        ({"scales": 9}, "scales: found 9"),
    ):
        with pytest.raises(LimelightError, match=match):
            node.run(**given | wrong)


@pytest.mark.parametrize("kind", ["SDXL", "Flux", "Wan21"])
def test_references_are_scaled_as_the_models_latents(kind):
    """Images, also for models of videos, whose latents have frames; the result has none."""
    import comfy.latent_formats

    latent_format = getattr(comfy.latent_formats, kind)()
    model = SimpleNamespace(latent_format=latent_format, process_latent_in=latent_format.process_in)
    given = noise(2, latent_format.latent_channels, 6, 5)
    found = structure.readied(given, model)
    if kind == "Wan21":
        assert torch.equal(found, structure.readied(given[:, :, None], model))
        wanted = latent_format.process_in(given[:, :, None])[:, :, 0]
    else:
        wanted = latent_format.process_in(given)
    assert torch.equal(found, wanted) and not torch.allclose(found, given)


def test_an_image_among_video_latents(tiny_sd15):
    """One frame is an image; more are refused before the first step."""
    from limelight.guidance import nudge

    run = nudge.Run(None, [9.0, 0.0], None, None)
    move = lambda x, mask, known: steer(x, REFERENCE, region(), Steps(), mask, known)  # noqa: E731
    assert run.moved(noise(1, 4, 1, 16, 16), move).shape == (1, 4, 1, 16, 16)
    with pytest.raises(LimelightError, match="latent: found 5 frames; local structure works on images"):
        nudge.check_image(torch.zeros(1, 4, 5, 8, 8), "local structure")
