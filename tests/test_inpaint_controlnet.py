"""A ControlNet with nine input channels in runs of the host: what it is fed, and that all else is as ever."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from conftest import CONTEXT
from guided_runs import conditioning, noise
from stand_ins import control_net, inpainting

from limelight.guidance.errors import LimelightError

STRUCTURE = {"model_channels": 64}  # of the tiny UNet: the host gives a ControlNet heads of 64 channels
PICTURE = (torch.zeros(1, 1, 16, 16).index_fill_(2, torch.arange(6), 1.0), noise(1, 4, 16, 16, seed=8))


@pytest.fixture(scope="module")
def ordinary(make_sd15):
    return make_sd15(seed=0, **STRUCTURE)


@pytest.fixture(scope="module")
def inpainter(make_sd15):
    return make_sd15(seed=0, in_channels=9, **STRUCTURE)


@pytest.fixture(scope="module")
def control(ordinary, tmp_path_factory):
    """From a file, through the loader."""
    from safetensors.torch import save_file

    from limelight.models.inpaint_files import load_control_net

    path = tmp_path_factory.mktemp("control") / "net.safetensors"
    save_file(inpainting(control_net(ordinary.model.diffusion_model)), path)
    with torch.inference_mode():
        return load_control_net(path, "control_net_name")


@pytest.fixture
def fed(control, monkeypatch):
    """What the network is given, call by call."""
    calls = []
    forward = control.control_model.forward

    def listening(**inputs):
        calls.append({key: value.clone() for key, value in inputs.items() if isinstance(value, torch.Tensor)})
        return forward(**inputs)

    monkeypatch.setattr(control.control_model, "forward", listening)
    return calls


@pytest.fixture
def apply(core_nodes):
    """-> function (control, positive=..., strength=1, start=0, end=1) -> the prompts with it, by the host's node."""

    def run(control, positive=None, strength=1.0, start=0.0, end=1.0, hint=None):
        positive = conditioning(width=CONTEXT) if positive is None else positive
        hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1)) if hint is None else hint
        negative = conditioning(width=CONTEXT, seed=9, **masks(positive))
        stock = core_nodes["ControlNetApplyAdvanced"]()
        return stock.apply_controlnet(positive, negative, control, hint, strength, start, end)

    return run


def masks(positive) -> dict:
    return {key: value for key, value in positive[0][1].items() if key.startswith("concat_")}


def sample(model, prompts, x=None, steps=2, mask=None):
    import comfy.sample

    x = noise(1, 4, 16, 16) if x is None else x
    with torch.inference_mode():
        common = {"noise_mask": mask, "seed": 0, "disable_pbar": True}
        return comfy.sample.sample(
            model, x, steps, 3.0, "euler", "normal", *prompts, torch.zeros_like(x), **common
        ).clone()


def in_prompt(picture=PICTURE) -> list:
    mask, latent = picture
    return conditioning(width=CONTEXT, concat_mask=mask, concat_latent_image=latent)


def test_of_an_inpainting_model_it_gets_what_the_unet_gets(inpainter, control, apply, fed, monkeypatch):
    unet = inpainter.model.diffusion_model
    seen, forward = [], unet.forward

    def listening(x, *rest, **more):
        seen.append(x.clone())
        return forward(x, *rest, **more)

    monkeypatch.setattr(unet, "forward", listening)
    own = control.with_picture(1 - PICTURE[0], -PICTURE[1])  # not asked for: the model's own count
    sample(inpainter, apply(own, in_prompt()))
    assert len(seen) == len(fed) == 2
    for call, x in zip(fed, seen, strict=True):
        assert torch.equal(call["x"], x) and call["x"].shape == (2, 9, 16, 16)
        assert torch.equal(call["x"][:, 4:5], PICTURE[0].expand(2, -1, -1, -1))


def test_of_another_model_it_gets_its_own_picture(ordinary, control, apply, fed):
    own = control.with_picture(*PICTURE)
    sample(ordinary, apply(own))
    for call in fed:
        assert torch.equal(call["x"][:, 4:5], PICTURE[0].expand(2, -1, -1, -1))
        torch.testing.assert_close(call["x"][:, 5:], 0.18215 * PICTURE[1].expand(2, -1, -1, -1))
    assert control.picture is None  # the loader's is everybody's


def test_areas_of_the_picture_see_their_part(inpainter, control, apply, fed):
    whole = in_prompt()
    left, right = ((16, 8, 0, 0), (16, 8, 0, 8))
    positive = [[whole[0][0], {**whole[0][1], "area": area}] for area in (left, right)]
    sample(inpainter, apply(control, positive), steps=1)
    expected = torch.cat([PICTURE[0], 0.18215 * PICTURE[1]], 1)
    parts = [row[4:] for call in fed for row in call["x"] if row.shape[-1] == 8]
    assert len(parts) == 4  # the negative prompt is asked for each area, too
    for part in (expected[0, ..., :8], expected[0, ..., 8:]):
        assert any(torch.allclose(part, found) for found in parts)


def test_a_batch_of_pictures_is_shared_out_as_the_hint_is(ordinary, control, apply, fed):
    pictures = torch.cat([PICTURE[0], 1 - PICTURE[0]]), noise(2, 4, 16, 16, seed=3)
    sample(ordinary, apply(control.with_picture(*pictures)), noise(2, 4, 16, 16), steps=1)
    assert torch.equal(fed[0]["x"][:, 4:5], torch.cat([pictures[0]] * 2))


def test_another_size_of_the_same_shape_is_scaled_and_another_shape_refused(ordinary, control, apply, fed):
    own = control.with_picture(*PICTURE)
    sample(ordinary, apply(own), noise(1, 4, 24, 24), steps=1)
    assert fed[0]["x"].shape[-2:] == (24, 24) and fed[0]["x"][:, 4].unique().tolist() == [0, 1]
    with pytest.raises(LimelightError, match="latent_image: found 64 x 128 pixels.*is 128 x 128.*Salient Background"):
        sample(ordinary, apply(own), noise(1, 4, 16, 8), steps=1)


def test_strength_range_and_chains_are_the_hosts(ordinary, control, apply, fed, tmp_path):
    import comfy.controlnet
    from safetensors.torch import save_file

    plain = conditioning(width=CONTEXT), conditioning(width=CONTEXT, seed=9)
    without = sample(ordinary, plain)
    own = control.with_picture(*PICTURE)
    results = [sample(ordinary, apply(own, strength=strength)) for strength in (0.0, 0.5, 1.0)]
    assert torch.equal(results[0], without)
    assert not torch.allclose(results[1], results[2]) and not torch.allclose(results[1], without)
    fed.clear()
    assert not torch.equal(sample(ordinary, apply(own, end=0.5), steps=4), sample(ordinary, plain, steps=4))
    assert 0 < len(fed) < 4
    fed.clear()
    assert torch.equal(sample(ordinary, apply(own, start=1.0)), without) and not fed
    save_file(control_net(ordinary.model.diffusion_model), tmp_path / "n.safetensors")
    with torch.inference_mode():
        other = comfy.controlnet.load_controlnet(str(tmp_path / "n.safetensors"))
    chained = apply(other, apply(own)[0])
    assert chained[0][0][1]["control"].previous_controlnet.picture is not None
    both = sample(ordinary, chained)
    only = sample(ordinary, apply(other))
    assert not torch.allclose(both, only) and not torch.allclose(both, results[2])


def test_masks_of_regional_prompts_and_noise_masks(ordinary, inpainter, control, apply, core_nodes):
    for model, own, first in ((inpainter, control, in_prompt()), (ordinary, control.with_picture(*PICTURE), None)):
        positive, negative = apply(own, first)
        half = torch.zeros(1, 16, 16)
        half[..., 8:] = 1
        (masked,) = core_nodes["ConditioningSetMask"]().append(positive, half, "default", 1.0)
        (rest,) = core_nodes["ConditioningSetMask"]().append(
            conditioning(width=CONTEXT, seed=4, **masks(positive)), 1 - half, "default", 1.0
        )
        out = sample(model, (masked + rest, negative), mask=PICTURE[0])
        assert out.isfinite().all()
        kept = PICTURE[0].expand(-1, 4, -1, -1) == 0
        assert out[kept].abs().max() < 1e-6 and out[~kept].std() > 0.1  # the empty latent is kept where the mask is 0


def test_under_highlight_guidance(inpainter, ordinary, control, apply, fed):
    """The guided pass runs it, too, with the same further channels, and goes through."""
    from guided_runs import BAR, CIRCLE, attach

    for model, own, values in (
        (inpainter, control, masks(in_prompt())),
        (ordinary, control.with_picture(*PICTURE), {}),
    ):
        prompts = apply(own, conditioning(CIRCLE, BAR, width=CONTEXT, **values))
        plain, runs = sample(model, prompts), len(fed)
        guided = sample(attach(model), prompts)
        assert guided.isfinite().all() and not torch.allclose(guided, plain)
        assert len(fed) > 2 * runs
        assert all(torch.equal(call["x"][:1, 4:5], PICTURE[0]) for call in fed)
        fed.clear()


def test_a_copy_is_whole_and_shares_the_weights(control):
    own = control.with_picture(*PICTURE).set_cond_hint(torch.rand(1, 3, 8, 8), 0.7, (0.1, 0.9))
    copy = own.copy()
    assert type(copy) is type(own) and copy.control_model is own.control_model
    assert copy.control_model_wrapped is own.control_model_wrapped and copy.get_models() == own.get_models()
    for name in (
        "strength",
        "timestep_percent_range",
        "extra_conds",
        "context_dim",
        "manual_cast_dtype",
        "load_device",
    ):
        assert getattr(copy, name) == getattr(own, name)
    assert all(a is b for a, b in zip(copy.picture, own.picture, strict=True))


def test_nothing_is_left_after_a_run_or_an_error(ordinary, control, apply, monkeypatch):
    prompts = apply(control.with_picture(*PICTURE))
    used = prompts[0][0][1]["control"]
    sample(ordinary, prompts)
    assert used.model_sampling_current is None and used._inputs is None

    def fails(**_):
        held.append(weakref.ref(used._inputs))
        raise RuntimeError("out of luck")

    held = []
    monkeypatch.setattr(control.control_model, "forward", fails)
    with pytest.raises(RuntimeError, match="out of luck"):
        sample(ordinary, prompts)
    monkeypatch.undo()
    expected = sample(ordinary, apply(control.with_picture(*PICTURE)))
    assert torch.equal(sample(ordinary, prompts), expected)
    gc.collect()
    assert held[0]() is None


def test_weights_that_stay_in_the_computers_memory(ordinary, control, apply, monkeypatch):
    """As the host streams them with little memory on the card: the result is the same."""
    expected = sample(ordinary, apply(control.with_picture(*PICTURE)))
    for module in control.control_model.modules():
        if hasattr(module, "comfy_cast_weights"):
            monkeypatch.setattr(module, "comfy_cast_weights", True)
    torch.testing.assert_close(sample(ordinary, apply(control.with_picture(*PICTURE))), expected)


def test_models_it_was_not_made_for_are_refused_before_the_first_step(ordinary, make_sd15, control, apply, fed):
    wide = make_sd15(seed=0, in_channels=9, context_dim=96, **STRUCTURE)
    with pytest.raises(LimelightError, match="made for a kind whose text is 64 wide, and the model is of .* 96 wide"):
        sample(wide, apply(control, conditioning(width=96)))
    with pytest.raises(LimelightError, match="needs the mask and the masked image.*Salient Background"):
        sample(ordinary, apply(control))
    made_for_sd2 = control.copy()
    made_for_sd2.context_dim = 1024
    with pytest.raises(
        LimelightError, match="made for Stable Diffusion 2, and the model is of a kind whose text is 64"
    ):
        sample(ordinary, apply(made_for_sd2))
    assert not fed


def test_a_model_with_other_added_channels(make_sd15, control, apply, fed):
    """InstructPix2Pix adds four channels: they are none of the ControlNet's."""
    import comfy.model_base

    model = make_sd15(seed=0, in_channels=8, **STRUCTURE)
    model.model.concat_keys = ("concat_image",)
    prompts = conditioning(width=CONTEXT, concat_latent_image=noise(1, 4, 16, 16, seed=2))
    with pytest.raises(LimelightError, match="needs the mask and the masked image"):
        sample(model, apply(control, prompts))
    assert isinstance(model.model, comfy.model_base.BaseModel)
    sample(model, apply(control.with_picture(*PICTURE), prompts), steps=1)
    assert torch.equal(fed[0]["x"][:1, 4:5], PICTURE[0])
