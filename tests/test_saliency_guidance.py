"""Saliency guidance in the real host: it draws attention, off is off, decoders, batches, masks, samplers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from foreign_models import control_net
from guided_runs import conditioning, lora_hook, noise, sample, untouched

from limelight.guidance import nudge
from limelight.guidance.errors import LimelightError
from limelight.guidance.saliency import decoders, through
from limelight.guidance.saliency import guidance as saliency_guidance
from limelight.guidance.saliency.guidance import Steps, Wish, attach, check_latent, loss, steer
from limelight.models.classic_saliency import ClassicSaliency
from limelight.models.saliency import Predictor
from limelight.models.signature_saliency import SignatureSaliency


def spot(y: float, x: float, height: int = 32, width: int = 32, sigma: float = 0.12) -> torch.Tensor:
    """(1, h, w): a soft spot."""
    rows, columns = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.exp(-((rows - y).square() + (columns - x).square()) / (2 * sigma**2))[None]


LEFT, RIGHT = spot(0.5, 0.25), spot(0.4, 0.75)


@pytest.fixture(scope="module")
def predictor(host):
    return Predictor.of(SignatureSaliency())


@pytest.fixture(params=[attach, through.attach], ids=["prediction", "through"])
def guide(request, tiny_sd15, predictor):
    """-> function (target, ..., changes of `Steps` or of the window) -> the guided tiny model."""

    def make(target=LEFT, suppress=None, start_percent=0.0, end_percent=1.0, model=tiny_sd15, **changes):
        steps = Steps(**{"iterations": 2, **changes})
        decoder = decoders.preview(tiny_sd15.model.latent_format)
        return request.param(model, predictor, decoder, Wish(target, suppress), steps, start_percent, end_percent)

    return make


def moved(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(b.isfinite().all()) and not torch.allclose(a, b, atol=1e-3 * float(a.abs().max()))


# What it does ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_what_it_says():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(2, 6, 8, generator=generator)
    p = p / p.sum((1, 2), keepdim=True)
    target, avoided = torch.rand(1, 6, 8, generator=generator), torch.zeros(1, 6, 8)
    avoided[0, :3] = 1
    t = target + saliency_guidance.FLOOR * target.mean()
    t = t / t.sum()
    for one, found in zip(p, loss(p.log(), Wish(target, avoided)), strict=True):
        expected = (t[0] * (t[0] / one).log()).sum() - (1 - one[:3].sum()).log()
        assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    assert loss(t.log(), Wish(target)).item() == pytest.approx(0, abs=1e-6)


def latents_with_a_thing(channels: int = 4) -> torch.Tensor:
    """A prediction that shows something at the right, on a ground that is nearly even."""
    thing = spot(0.5, 0.75, sigma=0.08)[None] * noise(1, channels, 1, 1, seed=3) * 2
    return thing + 0.05 * noise(1, channels, 32, 32, seed=4)


def shown_share(decoder, latents: torch.Tensor, region: torch.Tensor, network) -> float:
    with torch.inference_mode(False), torch.no_grad():
        density = network.log_density(decoder.decode(latents.clone()).clamp(0, 1), 0.5).exp()
    return float((density * F.interpolate(region[None], density.shape[-2:], mode="bilinear")[0]).sum())


@pytest.mark.parametrize("network", [SignatureSaliency, ClassicSaliency])
@pytest.mark.parametrize("kind", ["SD15", "SDXL", "SD3", "Flux"])
def test_attention_goes_where_it_should(host, kind, network):
    """Latents of 4 and 16 channels, by preview colours; attracted to the left, pushed away from the right."""
    import comfy.latent_formats

    latent_format = getattr(comfy.latent_formats, kind)()
    decoder, network = decoders.preview(latent_format), network()
    latents = latents_with_a_thing(latent_format.latent_channels)
    for wish, better in ((Wish(LEFT), 1), (Wish(None, spot(0.5, 0.75)), -1)):
        region = LEFT if wish.target is not None else wish.suppress
        with torch.inference_mode():
            after = latents + steer(latents, network, decoder, wish, Steps(strength=2.0))
        change = shown_share(decoder, after, region, network) - shown_share(decoder, latents, region, network)
        assert better * change > 0.02
        distance = (after - latents).square().mean().sqrt() / latents.std()
        assert distance <= 2 * saliency_guidance.REACH * saliency_guidance.TURN * 1.001


def test_calls_go_on_where_the_last_one_was(host, predictor):
    """What is added grows from call to call, in one direction, up to its bound; a mask bounds its place."""
    import comfy.latent_formats

    decoder = decoders.preview(comfy.latent_formats.SD15())
    latents, added, lengths = latents_with_a_thing(), None, []
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 20:] = 0
    for _ in range(4):
        before = added
        added = steer(latents, predictor.network, decoder, Wish(LEFT), Steps(), mask, latents, before)
        if before is not None:
            assert F.cosine_similarity(added.flatten(), before.flatten(), 0) > 0.5
        lengths.append(added[..., :20].square().mean().sqrt().item() / latents.std().item())
    assert not added[..., 20:].any()
    assert lengths[0] < lengths[1] and max(lengths) <= saliency_guidance.REACH * 1.001


def test_nothing_to_see_is_no_error(host, predictor):
    """An even prediction has no gradient to speak of, and no spread: it stays finite."""
    import comfy.latent_formats

    decoder = decoders.preview(comfy.latent_formats.SD15())
    found = steer(torch.zeros(1, 4, 16, 16), predictor.network, decoder, Wish(LEFT), Steps())
    assert torch.equal(found, torch.zeros(1, 4, 16, 16))


@pytest.fixture(scope="module")
def world(host):
    from limelight.bench.sampling import load_world

    return load_world()


@pytest.mark.parametrize(("how", "steps"), [(attach, Steps()), (through.attach, Steps(iterations=1))])
def test_attention_comes_to_the_spot_on_shapeworld(world, predictor, monkeypatch, how, steps):
    """To a corner where nothing is without guidance. Through the VAE with the host's weights; judged by the other
    predictor."""
    from limelight.bench import sampling

    monkeypatch.setattr(sampling, "STEPS", 15)
    texts = "a green bar and a yellow circle on a black background", ""
    positive, negative = (sampling.encode(world.clip, text) for text in texts)
    decoder = decoders.full(world.vae, world.model.model.latent_format)
    judge, target = Predictor.of(ClassicSaliency()), spot(0.67, 0.23, 128, 128)

    def share(model) -> float:
        latent, _ = sampling.sample(model, positive, negative, 1)
        with torch.inference_mode():
            density = judge.predict(world.vae.decode(latent), 0.5)
        return float((density * target).sum() / density.sum())

    assert share(how(world.model, predictor, decoder, Wish(target), steps)) > 1.5 * share(world.model)


def test_through_the_model_with_its_own_cfg_controls_and_hooks(tiny_sd15, predictor):
    """Each changes what is looked at, and so the update; what has other weights than the first is left out."""
    decoder = decoders.preview(tiny_sd15.model.latent_format)
    guided = through.attach(tiny_sd15, predictor, decoder, Wish(LEFT), Steps(iterations=1), 0.0, 1.0)
    hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    controlled = conditioning(control=control_net(tiny_sd15, hint), control_apply_to_uncond=False)
    hooked = conditioning(hooks=lora_hook(tiny_sd15))
    found = [
        sample(guided, positive, cfg=cfg) for positive in (conditioning(), controlled, hooked) for cfg in (1.0, 3.0)
    ]
    assert all(moved(a, b) for i, a in enumerate(found) for b in found[i + 1 :])
    assert moved(found[-1], sample(guided, hooked + conditioning(seed=3), cfg=3.0))


def test_a_model_without_gradients_is_named(tiny_sd15, predictor):
    model = tiny_sd15.clone()
    model.add_object_patch("diffusion_model", torch.nn.Linear(2, 2))
    decoder = decoders.preview(tiny_sd15.model.latent_format)
    model.patch_model()
    try:
        with pytest.raises(LimelightError, match="found a Linear.*method 'prediction only'"):
            through.attach(model, predictor, decoder, Wish(LEFT), Steps())
    finally:
        model.unpatch_model()


# Off is off, and nothing stays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"strength": 0.0}, {"start_percent": 0.97, "end_percent": 0.97}])
def test_off_is_bit_identical(tiny_sd15, guide, settings):
    positive = conditioning()
    assert torch.equal(sample(tiny_sd15, positive), sample(guide(**settings), positive))


def test_strength_0_patches_nothing(tiny_sd15, guide):
    off = guide(strength=0.0)
    assert repr(off.model_options) == repr(tiny_sd15.model_options) and off.wrappers == tiny_sd15.wrappers


def test_other_users_of_the_model_see_nothing(tiny_sd15, guide):
    positive = conditioning()
    plain, before = sample(tiny_sd15, positive), untouched(tiny_sd15)
    guided = guide()
    first = sample(guided, positive)
    assert moved(plain, first)
    assert untouched(tiny_sd15) == before
    assert torch.equal(plain, sample(tiny_sd15, positive))
    assert torch.equal(first, sample(guided, positive))
    assert not any(p.is_inference() for p in guide().get_additional_models()[0].model.buffers())


def test_the_window(tiny_sd15, guide):
    """A window at the end leaves the first steps alone; the whole schedule is another picture than a part of it."""
    positive = conditioning()
    results = [sample(guide(start_percent=a, end_percent=b), positive) for a, b in ((0, 1), (0, 0.5), (0.5, 1))]
    plain = sample(tiny_sd15, positive)
    assert all(moved(a, b) for i, a in enumerate([plain, *results]) for b in results[i:])


def test_an_interrupt_leaves_nothing_behind(tiny_sd15, guide, predictor, monkeypatch):
    import comfy.model_management as management

    positive = conditioning()
    guided = guide()
    whole, before = sample(guided, positive), untouched(tiny_sd15)
    look, calls = SignatureSaliency.log_density, []

    def stops(self, *args):
        calls.append(1)
        if len(calls) == 3:
            management.interrupt_current_processing(True)
        return look(self, *args)

    monkeypatch.setattr(SignatureSaliency, "log_density", stops)
    with pytest.raises(management.InterruptProcessingException):
        sample(guided, positive)
    monkeypatch.undo()
    assert len(calls) == 3 and not management.processing_interrupted()
    assert untouched(tiny_sd15) == before
    assert torch.equal(whole, sample(guided, positive))


# In every kind of run -------------------------------------------------------------------------------------------------


def test_a_batch_equals_single_runs(guide, predictor, tiny_sd15):
    """More images than are looked at together; each has a map of its own. Then the same through the sampler."""
    latents = torch.cat([latents_with_a_thing() * (1 + 0.1 * i) for i in range(5)])[..., :24]
    wishes = torch.cat([LEFT, RIGHT, spot(0.2, 0.5), spot(0.8, 0.5), LEFT])
    decoder = decoders.preview(tiny_sd15.model.latent_format)
    together = steer(latents, predictor.network, decoder, Wish(wishes), Steps())
    for i in range(5):
        alone = steer(latents[i : i + 1], predictor.network, decoder, Wish(wishes[i : i + 1]), Steps())
        assert (together[i] - alone[0]).abs().max() < 1e-3 * alone.abs().max()
    positive, x = conditioning(), noise(2, 4, 16, 24)
    together = sample(guide(wishes[:2]), positive, x, steps=1)
    for i in range(2):
        alone = sample(guide(wishes[i : i + 1]), positive, x[i : i + 1], steps=1)
        assert (together[i] - alone[0]).abs().max() < 1e-3 * alone.abs().max()
        assert moved(alone, sample(guide(wishes[1 - i][None]), positive, x[i : i + 1], steps=1))


def test_outside_the_noise_mask_nothing_changes(tiny_sd15, guide):
    positive, mask = conditioning(), torch.zeros(1, 1, 16, 24)
    mask[..., 8:] = 1
    x = noise(1, 4, 16, 24)
    plain, guided = (sample(model, positive, x, mask=mask) for model in (tiny_sd15, guide(RIGHT)))
    assert torch.equal(plain[..., :8], guided[..., :8])
    assert moved(plain[..., 8:], guided[..., 8:])


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "lcm"])
def test_samplers(tiny_sd15, guide, sampler):
    positive = conditioning()
    assert moved(sample(tiny_sd15, positive, sampler=sampler), sample(guide(), positive, sampler=sampler))


def test_other_patches_have_their_say(tiny_sd15, guide):
    """Another pack's post-CFG function, and a second guidance: all take part."""
    positive, seen = conditioning(), []
    other = tiny_sd15.clone()
    other.set_model_sampler_post_cfg_function(lambda args: seen.append(1) or args["denoised"])
    once, twice = sample(guide(model=other), positive), sample(guide(RIGHT, model=guide(model=other)), positive)
    assert seen and moved(once, twice) and torch.equal(once, sample(guide(), positive))


def test_videos_are_refused_and_single_frames_are_not():
    wish = Wish(LEFT)
    with pytest.raises(LimelightError, match="latent: found 5 frames"):
        check_latent(torch.zeros(1, 16, 5, 8, 8), wish)
    with pytest.raises(LimelightError, match="latent: found one of 3 dimensions"):
        check_latent(torch.zeros(1, 64, 100), wish)
    with pytest.raises(LimelightError, match="target: found 2 maps for 3 images"):
        check_latent(torch.zeros(3, 4, 8, 8), Wish(torch.zeros(2, 8, 8)))
    check_latent(torch.zeros(1, 16, 1, 8, 8), wish)
    run = nudge.Run(None, [9.0, 0.0], None, None)
    assert run.moved(torch.zeros(2, 16, 1, 8, 6), lambda x, mask, known: x + 1).shape == (2, 16, 1, 8, 6)
