"""Recording attention on small random models of the real host: what is seen, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from guided_runs import BAR, CIRCLE, attach, conditioning, look, noise, prepared, sample, untouched


@pytest.fixture
def record(host):
    from limelight.guidance.attention import record

    return record.attach


def watched(model) -> tuple[object, list]:
    """A clone that keeps (x, sigma) of every prediction, behind all wrappers so far."""
    from comfy.patcher_extension import WrappersMP

    calls, model = [], model.clone()

    def spy(executor, x, timestep, *args, **kwargs):
        calls.append((x.clone(), float(timestep[0])))
        return executor(x, timestep, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "spy", spy)
    return model, calls


def direct(model, positive, x: torch.Tensor, sigma: float, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares (B, n, h, w) and losses (B, n) from the guided step's own probe of the conditioning alone."""
    from limelight.guidance.attention.losses import phrase_map, placement_loss

    shares, losses = [], []

    def keep(maps, targets, tokens):
        with torch.no_grad():
            shares.append(torch.stack([phrase_map(maps, target.tokens, tokens) for target in targets], 1))
            losses.append(placement_loss(maps, targets, tokens))
        return maps.flatten(1).sum(1, keepdim=True).expand(-1, len(targets))

    run = prepared(model, positive, x, sigma)
    run.options["transformer_options"].update(options)
    look(run, x, loss=keep)
    finest = max((share.shape[-2:] for share in shares), key=lambda size: size[0])
    shares = [torch.nn.functional.interpolate(share, finest, mode="bilinear") for share in shares]
    return torch.stack(shares).mean(0), torch.stack(losses).mean(0)


def assert_step(step, expected: tuple[torch.Tensor, torch.Tensor], tolerance: float = 1e-4) -> None:
    assert torch.stack(step.maps, 1).shape == expected[0].shape
    assert (torch.stack(step.maps, 1) - expected[0]).abs().max() < tolerance
    assert (step.losses - expected[1]).abs().max() < tolerance


# The image stays the same -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_the_image_is_the_same_to_the_last_bit(tiny_sd15, record, sampler):
    positive, x = conditioning(CIRCLE, BAR), noise(2, 4, 17, 23)
    model, recording = record(tiny_sd15)
    plain, before = sample(tiny_sd15, positive, x, sampler), untouched(tiny_sd15)
    assert torch.equal(sample(model, positive, x, sampler), plain)
    assert [step.index for step in recording.steps] == [0, 1, 2]
    assert untouched(tiny_sd15) == before
    for step in recording.steps:
        assert [tuple(maps.shape) for maps in step.maps] == [(2, 17, 23)] * 2
        assert all((maps >= 0).all() and (maps <= 1).all() and maps.std() > 0 for maps in step.maps)


def test_before_or_behind_guidance_it_sees_the_guided_run_and_leaves_it_alone(tiny_sd15, record):
    positive, x = conditioning(CIRCLE, BAR), noise(1, 4, 16, 16)
    guided = attach(tiny_sd15)
    expected = sample(guided, positive, x)
    behind, seen_behind = record(guided)
    first, seen_before = record(tiny_sd15)
    first, calls = watched(attach(first))
    assert torch.equal(sample(behind, positive, x), expected)
    assert torch.equal(sample(first, positive, x), expected)
    for one, other, (at, sigma) in zip(seen_behind.steps, seen_before.steps, calls, strict=True):
        assert_step(one, direct(tiny_sd15, positive, at, sigma))
        assert torch.equal(torch.stack(one.maps), torch.stack(other.maps))


def test_other_packs_attention_keeps_its_say(tiny_sd15, record):
    """A replacement of one block's cross-attention (IP-Adapter does this), and an override of all attention."""
    replaced, overridden = [], []

    def replacement(q, k, v, extra):
        replaced.append(torch.is_grad_enabled())
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v * 2

    def override(function, *args, **kwargs):
        overridden.append(kwargs["attn_precision"])
        return function(*args, **kwargs)

    positive = conditioning(CIRCLE)
    model = tiny_sd15.clone()
    model.set_model_attn2_replace(replacement, "input", 1)
    model.set_model_attn2_replace(replacement, "output", 2, 0)
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    for base in (model, attach(model)):
        replaced.clear(), overridden.clear()
        expected, counts = sample(base, positive), (len(replaced), len(overridden))
        replaced.clear(), overridden.clear()
        recorded, recording = record(base)
        recorded, calls = watched(recorded)
        assert torch.equal(sample(recorded, positive), expected)
        assert (len(replaced), len(overridden)) == counts
        replace = {"attn2": {("input", 1): replacement, ("output", 2, 0): replacement}}
        for step, (at, sigma) in zip(recording.steps, calls, strict=True):
            assert_step(step, direct(tiny_sd15, positive, at, sigma, patches_replace=replace))


# What is seen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "negative"), [(77, 77), (77, 154), (154, 77)])
def test_maps_are_those_of_a_direct_capture(tiny_sd15, record, tokens, negative, monkeypatch):
    """Also where the host repeats the shorter context of a batch."""
    import guided_runs

    plain = guided_runs.conditioning
    monkeypatch.setattr(
        guided_runs, "conditioning", lambda *a, **k: plain(*a, **{**k, **({"tokens": negative} if not a else {})})
    )
    positive, x = plain(CIRCLE, BAR, tokens=tokens), noise(2, 4, 17, 12)
    model, recording = record(tiny_sd15)
    model, calls = watched(model)
    sample(model, positive, x)
    monkeypatch.undo()
    assert len(calls) == len(recording.steps) == 3
    for step, (at, sigma) in zip(recording.steps, calls, strict=True):
        assert_step(step, direct(tiny_sd15, positive, at, sigma))


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_sde"])
def test_samplers_with_several_calls_a_step_are_recorded_where_a_step_begins(tiny_sd15, record, sampler):
    positive, x = conditioning(CIRCLE), noise(1, 4, 16, 16)
    model, recording = record(tiny_sd15)
    model, calls = watched(model)
    sample(model, positive, x, sampler, steps=3)
    assert len(calls) == 5  # the last step makes one
    assert [step.index for step in recording.steps] == [0, 1, 2]
    for step, (at, sigma) in zip(recording.steps, calls[::2], strict=True):
        assert_step(step, direct(tiny_sd15, positive, at, sigma))


def test_every_n_steps_and_the_last(tiny_sd15, record):
    model, recording = record(tiny_sd15, every=3)
    sample(model, conditioning(CIRCLE), steps=6)
    assert [step.index for step in recording.steps] == [0, 3, 5]
    assert [step.percent for step in recording.steps] == sorted(step.percent for step in recording.steps)
    assert recording.steps[0].percent == pytest.approx(0, abs=0.01) and recording.planned == 6


def test_passes_that_other_nodes_add_to_a_step_are_not_seen(tiny_sd15, record, core_nodes):
    positive = conditioning(CIRCLE)
    plain, expected = record(tiny_sd15)
    sample(plain, positive, steps=1)
    node = core_nodes["PerturbedAttentionGuidance"]
    perturbed = (node.execute(tiny_sd15, 3.0) if hasattr(node, "execute") else node().patch(tiny_sd15, 3.0))[0]
    model, recording = record(perturbed)
    assert torch.equal(sample(perturbed, positive, steps=1), sample(model, positive, steps=1))
    assert torch.equal(recording.steps[0].maps[0], expected.steps[0].maps[0])


def test_regional_prompts_are_seen_in_their_area(tiny_sd15, record):
    """The host copies a conditioning with an area, id and all, to the negative side."""
    area = {"area": (8, 8, 0, 8), "strength": 1.0}
    positive = [*conditioning(BAR), *conditioning(CIRCLE, seed=6)]
    positive[1][1].update(area)
    positive[1][1]["limelight_highlights"]["highlights"][0]["instances"][0]["shapes"][0]["box"] = [0.6, 0.1, 0.9, 0.4]
    model, recording = record(tiny_sd15)
    assert torch.equal(sample(tiny_sd15, positive), sample(model, positive))
    assert [item.highlight.phrase for item in recording.highlights] == ["blue bar", "red circle"]
    for step in recording.steps:
        assert step.maps[0].shape == (1, 16, 16) and step.maps[1].shape == (1, 8, 8)
        placed = recording.whole(step, 1)
        assert placed.shape == (1, 16, 16)
        assert (placed[:, :8, 8:] > 0).all() and not placed[:, 8:].any() and not placed[:, :, :8].any()
    maps = recording.final_maps(32, 32)
    assert maps.shape == (1, 2, 32, 32) and not maps[0, 1, 20:].any()


def test_a_conditioning_that_is_off_leaves_a_gap(tiny_sd15, record):
    positive = conditioning(CIRCLE, start_percent=0.5) + conditioning(BAR, seed=7)
    model, recording = record(tiny_sd15)
    sample(model, positive, steps=4)
    first, last = recording.steps[0], recording.steps[-1]
    assert first.maps[0] is None and first.losses[0, 0].isnan() and not first.losses[0, 1].isnan()
    assert last.maps[0] is not None and not last.losses.isnan().any()
    assert torch.equal(recording.final(0), last.maps[0])


# Runs after one another -------------------------------------------------------------------------------------------


def test_a_new_run_replaces_what_is_there(tiny_sd15, record):
    model, recording = record(tiny_sd15)
    sample(model, conditioning(CIRCLE, BAR), steps=4)
    sample(model.clone(), conditioning(BAR), noise(2, 4, 8, 12), steps=2)
    assert [item.highlight.phrase for item in recording.highlights] == ["blue bar"]
    assert (recording.latent, recording.batch, recording.planned) == ((8, 12), 2, 2)
    assert [step.index for step in recording.steps] == [0, 1]
    sample(model, conditioning())
    assert not recording.highlights and not recording.steps


def test_two_records_of_one_run_agree(tiny_sd15, record):
    positive = conditioning(CIRCLE)
    model, first = record(tiny_sd15)
    model, second = record(model, every=2)
    assert torch.equal(sample(tiny_sd15, positive), sample(model, positive))
    assert [step.index for step in second.steps] == [0, 2]
    assert torch.equal(first.steps[2].maps[0], second.steps[1].maps[0])


def test_an_interrupted_run_keeps_what_it_has(tiny_sd15, record):
    import comfy.model_management as management

    positive, calls = conditioning(CIRCLE), []
    sample(tiny_sd15, positive, steps=1)

    def stop(q, k, v, extra):
        calls.append(1)
        if len(calls) == 3:
            raise management.InterruptProcessingException
        return q

    model = tiny_sd15.clone()
    model.set_model_attn2_replace(stop, "output", 5, 0)
    model, recording = record(model)
    before = untouched(model)
    with pytest.raises(management.InterruptProcessingException):
        sample(model, positive, steps=5)
    assert [step.index for step in recording.steps] == [0, 1]
    assert untouched(model) == before
    sample(model, positive, steps=5)
    assert len(recording.steps) == 5


def test_only_unets(host, record):
    from limelight.guidance.errors import LimelightError

    class Model:
        model = type("Base", (), {"diffusion_model": torch.nn.Linear(1, 1)})()

    with pytest.raises(LimelightError, match="^model: found a Linear, expected a UNet"):
        record(Model())


# Choosing steps ---------------------------------------------------------------------------------------------------


@pytest.fixture
def recording():
    from limelight.guidance.attention.recording import Recorded, Recording, Step
    from limelight.guidance.regions.document import Box, Highlight, Instance

    recording = Recording()
    circle = Highlight("red circle", (Instance((Box((0.1, 0.1, 0.5, 0.5)),)),), color="#ff0000")
    recording.begin([Recorded(circle, None)], (8, 8), 10)
    for index in (0, 2, 4, 6, 8, 9):
        recording.keep(Step(index, index / 10, [torch.full((1, 8, 8), index / 10)], torch.tensor([[1 - index / 10]])))
    return recording


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("all", [0, 2, 4, 6, 8, 9]),
        ("0, 4, last", [0, 4, 9]),
        ("last 0 0 first", [0, 9]),
        ("3, 7", [2, 6]),
        ("0%,20 %,40.5%,100%".replace(" ", ""), [0, 2, 4, 9]),
        ("LAST", [9]),
    ],
)
def test_choosing_steps(recording, text, chosen):
    from limelight.guidance.attention.recording import choose_steps

    assert [step.index for step in choose_steps(recording, text)] == chosen


@pytest.mark.parametrize("text", ["", " , ", "10", "-1", "101%", "%", "nan%", "1e3", "0..5", "some", "5-7", "٣²"])
def test_bad_steps(recording, text):
    from limelight.guidance.attention.recording import choose_steps
    from limelight.guidance.errors import LimelightError

    with pytest.raises(LimelightError, match="^steps: found .*expected"):
        choose_steps(recording, text)
