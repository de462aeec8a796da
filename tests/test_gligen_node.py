"""Highlight GLIGEN with guidance, hooks and stock nodes; its errors; the loader."""

from __future__ import annotations

import pytest
import torch
from foreign_models import grounding as stock_model
from gligen_runs import differ, sample
from gligen_weights import gligen_of, in_diffusers, random_gligen
from guided_runs import BAR, CIRCLE, attach, conditioning, look, lora_hook, noise, prepared
from safetensors.torch import save_file

from limelight.guidance.attention.grounding import add_residual
from limelight.guidance.errors import LimelightError

pytest_plugins = ["gligen_fixtures"]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_guidance_sees_through_grounding(tiny_sd15, ground, parallel, checkpoint):
    x = noise(1, 4, 16, 16) * 5
    free = look(prepared(tiny_sd15, conditioning(CIRCLE, BAR), x), x)
    positive, _ = ground(conditioning(CIRCLE, BAR), parallel=parallel)
    run = prepared(tiny_sd15, positive, x)
    run.options["transformer_options"]["patches"] = {"attn2_output_patch": [add_residual]}  # as the hook does in a run
    found = look(run, x, checkpoint=checkpoint)
    assert found.gradient.isfinite().all()
    assert differ(free.losses, found.losses) and differ(free.gradient, found.gradient)
    direction = found.gradient / found.gradient.norm()
    step = 2e-2
    ahead, behind = (look(run, x + sign * step * direction).losses.sum() for sign in (1, -1))
    assert float(ahead - behind) / (2 * step) == pytest.approx(float(found.gradient.norm()), rel=0.02)


@pytest.mark.parametrize("parallel", [False, True])
def test_guided_and_grounded(tiny_sd15, gligen, ground, parallel):
    positive, negative = ground(conditioning(CIRCLE, BAR), end_percent=0.5, parallel=parallel)
    plain = sample(tiny_sd15, positive, negative)
    assert differ(plain, sample(attach(tiny_sd15), positive, negative))
    assert differ(sample(attach(tiny_sd15), conditioning(CIRCLE, BAR)), sample(attach(tiny_sd15), positive, negative))
    assert torch.equal(plain, sample(tiny_sd15, positive, negative))
    assert not any("forward" in module.__dict__ for module in gligen.model.modules())


def test_boxes_follow_what_grows_in_the_guided_step(tiny_sd15, ground, told, monkeypatch):
    from limelight.guidance.attention import limelight

    def growing(self, seen, scene):
        circle, bar = scene.targets(16, 16, torch.device("cpu"))
        region = circle.attract.repeat(2, 1, 1)
        region[0, :12, :8] = 1
        return {circle.index: region, bar.index: bar.attract.repeat(2, 1, 1)}

    monkeypatch.setattr(limelight.Limelight, "_grown", growing)
    x, positive = noise(2, 4, 16, 16), conditioning(CIRCLE, BAR)
    batch = sample(attach(tiny_sd15, propagate=True), *ground(positive), x, steps=2)
    plain, wide, other = (0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.5, 0.75), (0.5, 0.5, 1.0, 1.0)
    assert told[0] == [plain, other]  # the first look of guidance
    assert [wide, plain, other, other] in told  # one box for each sample
    assert batch.isfinite().all()


def test_hooks_of_the_conditioning_are_kept(tiny_sd15, ground):
    """A LoRA on the positive prompt alone acts beside grounding, and is gone afterwards."""
    hooks = lora_hook(tiny_sd15)
    plain, with_lora = conditioning(CIRCLE), conditioning(CIRCLE, hooks=hooks)
    results = [sample(tiny_sd15, *pair) for pair in ([plain], [with_lora], ground(plain), ground(with_lora))]
    for i, one in enumerate(results):
        assert all(differ(one, other) for other in results[i + 1 :])
    assert len(hooks) == 1
    assert torch.equal(results[0], sample(tiny_sd15, plain))


def test_the_stock_node_uses_the_model_and_adds_boxes(tiny_sd15, core_nodes, gligen, ground, told, clip_l):
    stock = core_nodes["GLIGENTextBoxApply"]()

    def apply(positive, x):
        with torch.inference_mode():
            return stock.append(positive, clip_l, gligen, "blue bar", 64, 64, x, 0)[0]

    alone = apply(conditioning(), 0)
    assert differ(sample(tiny_sd15, conditioning()), sample(tiny_sd15, alone))
    before, after = ground(apply(conditioning(CIRCLE), 64), margin=0.0), ground(conditioning(CIRCLE), margin=0.0)
    after = (apply(after[0], 64), after[1])
    ours, theirs = (0.05, 0.05, 0.45, 0.45), (0.5, 0.0, 1.0, 0.5)
    for pair, boxes in ((before, [theirs, ours]), (after, [ours, theirs])):
        told.clear()
        sample(tiny_sd15, *pair, steps=1)
        assert told == [boxes, []]
    told.clear()
    again = ground(before[0], highlights={"version": 1, "highlights": []})[0]
    assert again is before[0]
    sample(tiny_sd15, *ground(*before, margin=0.0), steps=1)  # a second node replaces the first
    assert told == [[theirs, ours], []]


def test_settings_and_inputs_that_cannot_be(tiny_sd15, nodes, ground, gligen, clip_l, clip_sdxl):
    positive, negative = conditioning(CIRCLE), conditioning(seed=9)
    execute = nodes.LimelightHighlightGLIGEN.execute
    for change, words in (
        ({"strength": 2.5}, "strength: found 2.5"),
        ({"start_percent": 0.5, "end_percent": 0.2}, "start_percent: found 0.5, which is after end_percent 0.2"),
        ({"margin": 0.7}, "margin: found 0.7"),
        ({"highlights": {"version": 2}}, "version: found 2"),
    ):
        with pytest.raises(LimelightError, match=words):
            ground(positive, **change)
    with pytest.raises(LimelightError, match="clip: its text features are 160 wide, and the GLIGEN model reads 64"):
        execute(positive, negative, clip_sdxl, gligen)
    with pytest.raises(LimelightError, match="found a model of another loader.*Load GLIGEN"):
        execute(positive, negative, clip_l, stock_model(tiny_sd15))
    other = gligen_of(random_gligen(tiny_sd15.model.diffusion_model, 64))
    boxes = conditioning(CIRCLE, gligen=("position", other, [(torch.zeros(1, 64), 1, 1, 0, 0)]))
    with pytest.raises(LimelightError, match="boxes of another GLIGEN model"):
        execute(boxes, negative, clip_l, gligen)


def test_more_than_30_objects(ground):
    many = [("dot", [2], [i / 40, 0.1, i / 40 + 0.02, 0.2], 1.0) for i in range(31)]
    ground(conditioning(*many[:30]))
    with pytest.raises(LimelightError, match="found 31 objects for GLIGEN, which has room for 30"):
        ground(conditioning(*many))


def test_the_wrong_base_is_an_error_before_sampling(tiny_sd15, make_sd15, ground, monkeypatch):
    positive, negative = ground(conditioning(CIRCLE))
    other = make_sd15(channel_mult=[1, 2, 3])
    monkeypatch.setattr(other.model, "apply_model", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(LimelightError, match="gligen_textbox_model: made for another model: block input 5 is 96 wide"):
        sample(other, positive, negative)
    sample(tiny_sd15, positive, negative)


def test_a_stock_node_behind_with_another_model(tiny_sd15, core_nodes, ground, clip_l):
    positive, negative = ground(conditioning(CIRCLE))
    with torch.inference_mode():
        apply = core_nodes["GLIGENTextBoxApply"]().append
        positive = apply(positive, clip_l, stock_model(tiny_sd15), "bar", 64, 64, 0, 0)[0]
    with pytest.raises(LimelightError, match="behind Highlight GLIGEN uses another GLIGEN model"):
        sample(tiny_sd15, positive, negative)


def test_the_loader_lists_and_loads(host, nodes, tiny_sd15):
    folder = host.base / "models" / "gligen"
    state = random_gligen(tiny_sd15.model.diffusion_model, 64)
    (folder / "pipeline" / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "pipeline" / "vae").mkdir(exist_ok=True)
    save_file(state, folder / "pruned.safetensors")
    save_file(in_diffusers(state, 1), folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    names = nodes.LimelightGLIGENLoader.INPUT_TYPES()["required"]["gligen_name"][1]["options"]
    assert {name.replace("\\", "/") for name in names} == {
        "other.safetensors",
        "pruned.safetensors",
        "pipeline/unet/diffusion_pytorch_model.safetensors",
    }
    load = nodes.LimelightGLIGENLoader.execute
    with torch.inference_mode():
        models = [load(name)[0] for name in names if name != "other.safetensors"]
    first, second = (model.model.state_dict() for model in models)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    models[0].model.check_fits(tiny_sd15.model.diffusion_model)
    with pytest.raises(LimelightError, match=r"gligen_name \(other.safetensors\): not a GLIGEN file"):
        load("other.safetensors")
