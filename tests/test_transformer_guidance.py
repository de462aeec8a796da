"""The guided step on small random transformers of the host's classes: maps, gradients, runs."""

from __future__ import annotations

import pytest
import torch
from guided_runs import BAR, CIRCLE, attach, look, prepared, untouched, with_override
from transformer_models import build, close, latent, places, prompt, run, sizes

from limelight.guidance.attention import bias, joint_capture
from limelight.guidance.attention.architectures import family_of
from limelight.guidance.errors import LimelightError

pytest_plugins = ["transformer_fixtures"]
SIGMA = 0.9


def looked(model, ready, x, monkeypatch=None, **changes):
    """A look and the maps that it saw."""
    seen = []
    if monkeypatch is not None:
        original = joint_capture.JointCapture.__init__

        def keep(self, *args):
            original(self, *args)
            seen.append(self.seen)

        monkeypatch.setattr(joint_capture.JointCapture, "__init__", keep)
    return look(ready, x, **changes), seen


@pytest.mark.parametrize("number", [0, 1])
def test_maps_are_those_of_whole_matrices(kind, model, number, monkeypatch):
    size = sizes(kind)[number]
    x, positive = latent(kind, 2, *size), prompt(CIRCLE, BAR)
    ready = prepared(model, positive, x, SIGMA)
    _, (seen,) = looked(model, ready, x, monkeypatch)
    family, network = family_of(model.model.diffusion_model), model.model.diffusion_model
    column, row, grid, *lengths = places(kind, size)
    expected = []

    def keep(func, q, k, v, heads, *args, **kwargs):
        split = kwargs.get("skip_reshape", False)
        if [t.shape[2 if split else 1] for t in (q, k)] == lengths:
            a, b = (t if split else t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
            whole = (a @ b.transpose(-1, -2) * a.shape[-1] ** -0.5).softmax(-1).mean(1)
            cells = grid[0] * grid[1]
            expected.append(whole[:, row : row + cells, column : column + 20].unflatten(1, grid))
        return func(q, k, v, heads, *args, **kwargs)

    import comfy.samplers

    with torch.inference_mode():
        options = {"transformer_options": {"optimized_attention_override": keep}}
        conds = [[ready.scenes[0].cond]]
        comfy.samplers.calc_cond_batch(ready.guider.inner_model, conds, x, ready.sigma, options)
    keys = [block.key for block in family.all_blocks(network, *size)]
    assert len(expected) == len(keys)
    assert list(seen.cross) == [block.key for block in family.layout_blocks(network, *size)]
    for key, maps in seen.cross.items():
        whole = expected[keys.index(key)]
        assert maps.shape == (2, *grid, 20)
        assert close(maps[..., 1:7], whole[..., 1:7])
        assert not maps[..., 7:].any()


@pytest.mark.parametrize("number", [0, 1])
def test_the_gradient_is_that_of_finite_differences(kind, model, number):
    x = latent(kind, 1, *sizes(kind)[number])
    ready, before = prepared(model, prompt(CIRCLE, BAR), x, SIGMA), untouched(model)
    found = look(ready, x)
    assert untouched(model) == before
    assert found.gradient.shape == x.shape
    direction = found.gradient / found.gradient.norm()
    h = 0.05
    above, below = (look(ready, x + way * h * direction).losses.sum() for way in (1, -1))
    slope = float((above - below) / (2 * h))
    assert slope == pytest.approx(float(found.gradient.norm()), rel=0.02)


@pytest.mark.parametrize("layers", ["auto", "all"])
def test_less_memory_the_same_gradient(kind, model, layers):
    from limelight.guidance.attention.architectures.names import listing

    family, network, x = family_of(model.model.diffusion_model), model.model.diffusion_model, latent(kind, 2)
    named = "auto" if layers == "auto" else listing(block.key for block in family.all_blocks(network, 16, 16))
    ready = prepared(model, prompt(CIRCLE, BAR), x, SIGMA)
    plain = look(ready, x, layers=named)
    again = look(ready, x, layers=named, checkpoint=True)
    assert torch.equal(plain.losses, again.losses)
    assert close(again.gradient, plain.gradient)
    assert not any("forward" in module.__dict__ for module in network.modules() if module is not network)


def test_leaving_early_changes_nothing(kind, model, monkeypatch):
    x = latent(kind)
    ready = prepared(model, prompt(CIRCLE, BAR), x, SIGMA)
    early = look(ready, x)
    calls = []
    monkeypatch.setattr(joint_capture, "_leave", lambda joint, *_: calls.append(joint))

    def whole(capture, executor, *args, **kwargs):
        with pytest.raises(LimelightError, match="never came to its block"):
            original(capture, executor, *args, **kwargs)
        raise joint_capture.StopForward

    original = joint_capture.JointCapture._apply_model
    monkeypatch.setattr(joint_capture.JointCapture, "_apply_model", whole)
    full = look(ready, x)
    assert calls[0].count == len(calls[0].keys)
    assert torch.equal(early.losses, full.losses) and torch.equal(early.gradient, full.gradient)


def test_a_run_lowers_the_loss_and_leaves_nothing_behind(kind, model, caplog):
    x, positive, before = latent(kind), prompt(CIRCLE, BAR), untouched(model)
    plain = run(model, positive, x, steps=3)
    guided = attach(model, updates=2, end_percent=1.0)
    with caplog.at_level("INFO"):
        first = run(guided, positive, x, steps=3)
    losses = [record.message for record in caplog.records if "loss" in record.message]
    start, end = losses[-1].split("'red circle' ")[1].split(",")[0].split(" -> ")
    assert float(end) < float(start)
    assert first.isfinite().all() and not close(first, plain, 1e-3)
    assert untouched(model) == before
    assert torch.equal(run(model, positive, x, steps=3), plain)
    assert torch.equal(run(attach(model, strength=0.0), positive, x, steps=3), plain)


def test_a_batch_equals_single_runs(kind, model):
    guided, positive, x = attach(model, updates=1, end_percent=1.0), prompt(CIRCLE, BAR), latent(kind, 2)
    for one, alone in zip(run(guided, positive, x, steps=2), x, strict=True):
        single = run(guided, positive, alone[None], steps=2)[0]
        assert close(one, single, 2e-3)


def test_masked_out_latents_are_bit_identical(kind, model):
    size = sizes(kind)[1]
    x, mask, positive = latent(kind, 1, *size), torch.zeros(1, *size), prompt(CIRCLE)
    mask[:, :, :8] = 1
    plain = run(model, positive, x, steps=2, noise_mask=mask)
    for one in (attach(model, end_percent=1.0), bias.attach(model, end_percent=1.0)):
        changed = run(one, positive, x, steps=2, noise_mask=mask)
        assert torch.equal(plain[..., 8:], changed[..., 8:])
        assert not torch.equal(plain[..., :8], changed[..., :8])


def test_the_two_sides_in_one_batch_or_apart(kind, model, monkeypatch):
    x, positive = latent(kind, 1, *sizes(kind)[1]), prompt(CIRCLE, BAR)
    guided = bias.attach(attach(model, updates=1, end_percent=1.0), end_percent=1.0)
    together = run(guided, positive, x)
    monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e30)
    assert close(run(guided, positive, x), together, 1e-3)


def test_with_bias_and_with_reference_images(host):
    model, x = build("Flux"), latent("Flux")
    reference = latent("Flux", 1, 8, 6, seed=3)
    positive = prompt(CIRCLE, BAR, reference_latents=[reference])
    negative = prompt(seed=9, reference_latents=[reference])
    guided = attach(model, updates=1, end_percent=1.0)
    both = bias.attach(guided, end_percent=1.0)
    results = [run(one, positive, x, steps=2, negative=negative) for one in (model, guided, both)]
    assert all(result.isfinite().all() for result in results)
    assert not close(results[0], results[1], 1e-3) and not close(results[1], results[2], 1e-3)
    assert torch.equal(run(both, positive, x, 2, negative=negative), results[2])


def test_a_foreign_override_does_not_break_the_gradient(zimage):
    def override(func, *args, **kwargs):
        with torch.no_grad():  # as sage attention
            return func(*args, **kwargs)

    x, model = latent("ZImage"), with_override(zimage, override)
    expected = look(prepared(zimage, prompt(CIRCLE), x, SIGMA), x).gradient
    ready = prepared(model, prompt(CIRCLE), x, SIGMA)
    ready.options = model.model_options
    assert torch.equal(look(ready, x).gradient, expected)


def test_layers_by_name(zimage):
    network = zimage.model.diffusion_model
    blocks = family_of(network).layout_blocks(network, 16, 16, "layer 1")
    assert [block.key for block in blocks] == [("layer", 1, 0)]
    with pytest.raises(LimelightError, match="'layer 7' is not in this model. Choose from layer 0-1"):
        attach(zimage, layers="layer 7")


def test_published_methods_are_refused(zimage):
    from limelight.guidance.attention import published, step

    name = next(iter(published.METHODS))
    with pytest.raises(LimelightError, match="NextDiT.*works on UNets"):
        step.attach(zimage, published.METHODS[name]())


def test_probabilities_need_no_matrix_and_are_exact():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, n, 8, generator=generator) for n in (5, 40))
    columns = list(range(3, 33, 2))  # more than a kernel's width
    expected = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1).mean(1)[..., columns]
    assert torch.allclose(joint_capture.probabilities_of(q, k, columns), expected, atol=1e-6)
    shared = joint_capture.probabilities_of(q, k[:, :1], columns)
    assert torch.allclose(shared, joint_capture.probabilities_of(q, k[:, :1].expand_as(k), columns))


def test_attention_is_recorded_without_a_change(kind, model):
    from limelight.guidance.attention import record

    x, positive = latent(kind, 2), prompt(CIRCLE, BAR)
    plain, before = run(model, positive, x, steps=2), untouched(model)
    recorded, recording = record.attach(model)
    assert torch.equal(run(recorded, positive, x, steps=2), plain)
    assert untouched(model) == before
    maps = recording.final_maps(32, 32)
    assert maps.shape == (2, 2, 32, 32)
    assert 0 < maps.min() < maps.max() < 1
    biased = bias.attach(recorded, end_percent=1.0)
    moved = run(biased, positive, x, steps=2)
    assert torch.equal(run(bias.attach(model, end_percent=1.0), positive, x, steps=2), moved)
