"""Highlights grounded by GLIGEN in real runs: what the model is told, when, and what stays as it was."""

from __future__ import annotations

import pytest
import torch
from gligen_weights import gligen_of, random_gligen
from guided_runs import BAR, CIRCLE, attach, conditioning, look, noise, prepared, untouched

from limelight.guidance.errors import LimelightError
from limelight.guidance.grounding import RESIDUAL, Grounding, add_residual

ALWAYS = {"start_percent": 0.0, "end_percent": 1.0}
HALVES = (("left", [2], [0.0, 0.0, 0.5, 1.0], 1.0), ("right", [3], [0.5, 0.0, 1.0, 1.0], 1.0))


@pytest.fixture
def nodes(host):
    from limelight.nodes import highlight_gligen

    return highlight_gligen


@pytest.fixture
def gligen(tiny_sd15):
    """A new GLIGEN that fits the tiny UNet; the same weights each time."""
    return gligen_of(random_gligen(tiny_sd15.model.diffusion_model, 64))


@pytest.fixture
def ground(nodes, clip_l, gligen):
    """-> function (positive, negative=plain, **settings) -> positive and negative of the node, grounded throughout."""

    def run(positive, negative=None, **settings):
        with torch.inference_mode():
            negative = conditioning(seed=9) if negative is None else negative
            return nodes.LimelightHighlightGLIGEN.execute(
                positive, negative, clip_l, gligen, **{**ALWAYS, **settings}
            ).result

    return run


def sample(model, positive, negative=None, x=None, sampler="euler", steps=3, cfg=3.0) -> torch.Tensor:
    import comfy.sample

    x = noise(1, 4, 16, 16) if x is None else x
    negative = conditioning(seed=9) if negative is None else negative
    with torch.inference_mode():
        latent = torch.zeros_like(x)
        return comfy.sample.sample(
            model, x, steps, cfg, sampler, "normal", positive, negative, latent, seed=0, disable_pbar=True
        ).clone()


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(b.isfinite().all()) and (a - b).abs().max() > 1e-3 * a.abs().max()


@pytest.fixture
def told(gligen, monkeypatch):
    """What the model's GLIGEN is told, call by call: lists of boxes."""
    calls = []
    original = gligen.model.set_position

    def set_position(shape, params, device):
        slots = Grounding(params).slots(shape[-2:]) if type(params) is list else params.slots(shape[-2:])
        calls.append([tuple(round(edge, 4) for edge in box) for _, box in slots])
        return original(shape, params, device)

    monkeypatch.setattr(gligen.model, "set_position", set_position)
    return calls


# What the model is told -----------------------------------------------------------------------------------------------


def test_a_run_is_that_of_the_hosts_own_machinery(tiny_sd15, gligen, ground, clip_l):
    """The host, given the same boxes by hand, and null grounding for the negative, samples the same."""
    with torch.inference_mode():
        said = {
            phrase: clip_l.encode_from_tokens(clip_l.tokenize(phrase), return_pooled="unprojected")[1]
            for phrase in ("red circle", "blue bar")
        }
    grid = [("red circle", [2, 3], [0.0, 0.125, 0.5, 0.5], 1.0), ("blue bar", [5, 6], [0.5, 0.25, 1.0, 1.0], 1.0)]
    boxes = [(said["red circle"], 6, 8, 2, 0), (said["blue bar"], 12, 8, 4, 8)]
    by_hand = sample(
        tiny_sd15,
        conditioning(*grid, gligen=("position", gligen, boxes)),
        conditioning(seed=9, gligen=("none", gligen, [])),
    )
    assert differ(sample(tiny_sd15, conditioning(*grid)), by_hand)
    assert torch.allclose(sample(tiny_sd15, *ground(conditioning(*grid), margin=0.0)), by_hand, atol=1e-5)


def test_the_negative_is_told_that_there_is_nothing(tiny_sd15, gligen, ground, told):
    positive, negative = ground(conditioning(CIRCLE, BAR), margin=0.0)
    both = sample(tiny_sd15, positive, negative, steps=1)
    boxes = [(0.05, 0.05, 0.45, 0.45), (0.55, 0.55, 0.95, 0.95)]
    assert told == [boxes, []]
    assert torch.equal(
        sample(tiny_sd15, positive, steps=1), both
    )  # the host copies the boxes there: they are taken out
    assert told[2:] == [boxes, []]
    assert differ(sample(tiny_sd15, conditioning(CIRCLE, BAR), steps=1), both)


def test_a_connected_document_counts_instead_of_the_bound_one(tiny_sd15, ground, told):
    stroke = {"type": "stroke", "points": [[0.25, 0.5], [0.75, 0.5]], "width": 0.1}
    instances = [{"shapes": [stroke]}, {"shapes": [{"type": "box", "box": [0.1, 0.1, 0.3, 0.3]}]}]
    off = {"phrase": "off", "strength": 0.0, "instances": instances[1:]}
    document = {"version": 1, "highlights": [{"phrase": "two dolphins", "instances": instances}, off]}
    for positive in (conditioning(), conditioning(CIRCLE)):
        told.clear()
        sample(tiny_sd15, *ground(positive, highlights=document), steps=1)
        assert told == [[(0.15, 0.4, 0.85, 0.6), (0.05, 0.05, 0.35, 0.35)], []]


def test_the_window_ends_by_sigma_whatever_the_number_of_steps(tiny_sd15, ground, told):
    sampling = tiny_sd15.model.model_sampling
    edge = float(sampling.percent_to_sigma(0.3))
    passes = []

    def spy(apply, given):
        passes.append((float(given["timestep"][0]), sorted(given["cond_or_uncond"])))
        return apply(given["input"], given["timestep"], **given["c"])

    model = tiny_sd15.clone()
    model.set_model_unet_function_wrapper(spy)
    positive, negative = ground(conditioning(CIRCLE), end_percent=0.3)
    for steps in (4, 10):
        passes.clear(), told.clear()
        sample(model, positive, negative, steps=steps)
        grounded = {sigma for sigma, _ in passes if sigma >= edge}
        later = {sigma for sigma, _ in passes if sigma < edge}
        assert grounded and later
        assert len(told) == 2 * len(grounded)
        # off means that the host is free again to run both conditionings in one pass
        assert [who for sigma, who in passes if sigma in later] == [[0, 1]] * len(later)


def test_an_area_is_told_what_it_sees(tiny_sd15, ground, told):
    areas = [{"area": (16, 8, 0, 8)}, {"area": ("percentage", 1.0, 0.5, 0.0, 0.5)}]
    whole = {"mask": torch.ones(1, 16, 16), "mask_strength": 1.0, "set_area_to_bounds": True}
    for area in (*areas, whole):
        told.clear()
        alone = ground(conditioning(*HALVES, **area), margin=0.0)
        sample(tiny_sd15, *alone, steps=1)
        right = [(0.0, 0.0, 1.0, 1.0)]
        assert told[0] == (right if area is not whole else [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)])
        assert all(boxes == [] for boxes in told[1:])
    told.clear()
    away = ground(conditioning(HALVES[0], **areas[0]), margin=0.2)
    sample(tiny_sd15, *away, steps=1)
    assert told == [[], []]  # nothing to ground in the area: only the negative prompt is told, there and as a whole


def test_several_prompts_have_boxes_of_their_own(tiny_sd15, ground, told):
    positive = conditioning(CIRCLE) + conditioning(BAR, seed=6) + conditioning(seed=7)
    sample(tiny_sd15, *ground(positive, margin=0.0), steps=1)
    assert sorted(told) == [[], [(0.05, 0.05, 0.45, 0.45)], [(0.55, 0.55, 0.95, 0.95)]]


@pytest.mark.parametrize("parallel", [False, True])
def test_a_batch_equals_single_runs_on_any_size(tiny_sd15, ground, parallel):
    conditionings = ground(conditioning(CIRCLE, BAR), parallel=parallel)
    for size in ((16, 16), (17, 23)):
        x = noise(2, 4, *size)
        batch = sample(tiny_sd15, *conditionings, x)
        assert differ(sample(tiny_sd15, conditioning(CIRCLE, BAR), x=x), batch)
        for one, alone in zip(batch, x, strict=True):
            single = sample(tiny_sd15, *conditionings, alone[None])[0]
            assert (one - single).abs().max() < 1e-4 * single.abs().max()


def test_without_a_negative_and_with_two_positives(tiny_sd15, ground):
    import comfy.samplers

    (grounded, _), plain = ground(conditioning(CIRCLE)), conditioning(CIRCLE)
    assert differ(sample(tiny_sd15, plain, cfg=1.0), sample(tiny_sd15, grounded, cfg=1.0))
    guider = comfy.samplers.CFGGuider(tiny_sd15)
    guider.inner_set_conds({"positive": grounded})
    with torch.inference_mode():
        x = noise(1, 4, 16, 16)
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([10.0, 3.0, 0.0])
        alone = guider.sample(x, torch.zeros_like(x), sampler, sigmas, disable_pbar=True)
    assert alone.isfinite().all()


# Off ------------------------------------------------------------------------------------------------------------------

OFF = ("red circle", [2, 3], [0.1, 0.1, 0.4, 0.4], 0.0)
EMPTY = {"version": 1, "highlights": []}


@pytest.mark.parametrize(
    ("highlights", "settings"),
    [
        ([CIRCLE], {"strength": 0.0}),
        ([], {}),
        ([OFF], {}),
        ([CIRCLE], {"highlights": EMPTY}),
        ([CIRCLE], {"start_percent": 0.999, "end_percent": 0.999}),
    ],
    ids=["strength 0", "no highlights", "a highlight of strength 0", "an empty document", "no step in the window"],
)
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_off_is_bit_identical(tiny_sd15, ground, highlights, settings, sampler):
    positive = conditioning(*highlights)
    plain = sample(tiny_sd15, positive, sampler=sampler)
    assert torch.equal(plain, sample(tiny_sd15, *ground(positive, **settings), sampler=sampler))


def test_nothing_is_left_behind(tiny_sd15, gligen, ground):
    positive = conditioning(CIRCLE)
    plain, before = sample(tiny_sd15, positive), untouched(tiny_sd15)
    grounded = ground(positive, parallel=True)
    first = sample(tiny_sd15, *grounded)
    modules = [sorted(module.__dict__) for module in gligen.model.modules()]
    assert torch.equal(first, sample(tiny_sd15, *grounded))
    assert torch.equal(plain, sample(tiny_sd15, positive))
    assert "gligen" not in positive[0][1]
    assert untouched(tiny_sd15) == before
    assert [sorted(module.__dict__) for module in gligen.model.modules()] == modules


# Parallel placement ---------------------------------------------------------------------------------------------------


def test_parallel_placement_by_hand(tiny_sd15, gligen):
    """ReGround: cross-attention and the gated attention read the same input, and both are added to it."""
    entry = (torch.randn(1, 64), 5, 7, 2, 3)
    block = tiny_sd15.model.diffusion_model.input_blocks[1][1].transformer_blocks[0]
    x, context = torch.randn(2, 48, 32), torch.randn(2, 7, 64)

    def run(parallel):
        patch = gligen.model.set_position(torch.Size((2, 4, 8, 6)), Grounding([entry], parallel=parallel), x.device)
        patches = {"middle_patch": [patch], "attn2_output_patch": [add_residual]}
        options = {"block": ("input", 1), "block_index": 0, "patches": patches}
        return block(x, context, options), patch

    with torch.inference_mode():
        first = x + block.attn1(block.norm1(x))
        sequential, patch = run(False)
        extra = {"block": ("input", 1), "block_index": 0, "n_heads": block.n_heads}
        gated = patch(first, extra) - first
        expected = first + gated + block.attn2(block.norm2(first), context)
        expected = expected + block.ff(block.norm3(expected))
        assert (run(True)[0] - expected).abs().max() < 1e-5
        before = first + gated
        before = before + block.attn2(block.norm2(before), context)
        assert (sequential - before - block.ff(block.norm3(before))).abs().max() < 1e-5
        assert differ(sequential, expected)
        assert RESIDUAL not in extra


def test_parallel_placement_in_a_run(tiny_sd15, ground):
    positive = conditioning(CIRCLE, BAR)
    sequential, parallel = (sample(tiny_sd15, *ground(positive, parallel=parallel)) for parallel in (False, True))
    plain = sample(tiny_sd15, positive)
    assert differ(sequential, parallel) and differ(plain, parallel)
    # the gates' effect is of the same size, not lost on the way
    assert 0.2 < (parallel - plain).norm() / (sequential - plain).norm() < 5


# With the rest of the pack and of the host ----------------------------------------------------------------------------


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


def test_hooks_of_the_conditioning_are_kept(tiny_sd15, ground):
    """A LoRA on the positive prompt alone acts beside grounding, and is gone afterwards."""
    import comfy.hooks
    import comfy.lora

    generator = torch.Generator().manual_seed(3)
    weights, names = {}, {}
    for name, value in tiny_sd15.model.state_dict().items():
        if name.endswith("attn2.to_q.weight"):
            key = "lora_unet_" + name.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")
            names[key] = name
            weights[f"{key}.lora_up.weight"] = torch.randn(value.shape[0], 2, generator=generator)
            weights[f"{key}.lora_down.weight"] = torch.randn(2, value.shape[1], generator=generator) * 0.2
    hooks = comfy.hooks.create_hook_lora(weights, 1.0, 1.0)
    for hook in hooks.hooks:
        hook.weights, hook.need_weight_init = comfy.lora.load_lora(weights, names), False
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


# Phrases --------------------------------------------------------------------------------------------------------------


def transformers_tower(tower, with_projection):
    """The same weights in the reference implementation."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    state = dict(tower.transformer.state_dict())
    layers = tower.transformer.num_layers
    width = state["text_model.final_layer_norm.weight"].shape[0]
    vocabulary = state["text_model.embeddings.token_embedding.weight"].shape[0]
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=state["text_projection.weight"].shape[0],
        hidden_act=with_projection[1],
        bos_token_id=49406,
        eos_token_id=49407,
    )
    model = (CLIPTextModelWithProjection if with_projection[0] else CLIPTextModel)(config).eval()
    own = {key.removeprefix("text_model."): value.clone() for key, value in state.items()}
    target = model.state_dict()
    model.load_state_dict({key: own[key.removeprefix("text_model.")] for key in target}, strict=True)
    return model


def ids(clip, text, name):
    return torch.tensor([[token for token, *_ in clip.tokenize(text)[name][0]]])


def test_phrases_of_sd1(host, clip_l):
    from limelight.models.gligen_phrases import phrase_feature

    with torch.inference_mode():
        reference = transformers_tower(clip_l.cond_stage_model.clip_l, (False, "quick_gelu"))
        found = phrase_feature(clip_l, "a (red:1.3) circle")
        assert found.shape == (1, 64)
        expected = reference(ids(clip_l, "a red circle", "l")).pooler_output
        assert (found - expected).abs().max() < 1e-5


def test_phrases_of_sdxl(host, clip_sdxl):
    from limelight.models.gligen_phrases import phrase_feature

    towers = clip_sdxl.cond_stage_model
    with torch.inference_mode():
        before = clip_sdxl.encode_from_tokens(clip_sdxl.tokenize("a red circle"), return_pooled=True)
        first = transformers_tower(towers.clip_l, (False, "quick_gelu"))
        second = transformers_tower(towers.clip_g, (True, "gelu"))
        found = phrase_feature(clip_sdxl, "a red circle")
        assert found.shape == (1, 64 + 96)
        assert (found[:, :64] - first(ids(clip_sdxl, "a red circle", "l")).pooler_output).abs().max() < 1e-5
        assert (found[:, 64:] - second(ids(clip_sdxl, "a red circle", "g")).text_embeds).abs().max() < 1e-5
        after = clip_sdxl.encode_from_tokens(clip_sdxl.tokenize("a red circle"), return_pooled=True)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.fixture(scope="module")
def clip_h(host):
    """A host CLIP of the SD2 kind with a tiny random text model."""
    import comfy.sd
    import comfy.supported_models_base
    from comfy.text_encoders import sd2_clip
    from conftest import TINY_CLIP_L, random_weights

    target = comfy.supported_models_base.ClipTarget(sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel)
    clip = comfy.sd.CLIP(target, model_options={"clip_h_model_config": {**TINY_CLIP_L, "num_hidden_layers": 4}})
    random_weights(clip.cond_stage_model, seed=1)
    return clip


def test_phrases_of_sd2(clip_h):
    from limelight.models.gligen_phrases import phrase_feature

    with torch.inference_mode():
        reference = transformers_tower(clip_h.cond_stage_model.clip_h, (False, "gelu"))
        encoder = getattr(reference, "text_model", reference).encoder
        encoder.layers = encoder.layers[:-1]  # as diffusers cuts it
        expected = reference(ids(clip_h, "a red circle", "h")).pooler_output
        skipping = clip_h.clone()
        skipping.clip_layer(-3)
        for clip in (clip_h, skipping):
            assert (phrase_feature(clip, "a red circle") - expected).abs().max() < 1e-5


# Errors ---------------------------------------------------------------------------------------------------------------


def test_settings_and_inputs_that_cannot_be(tiny_sd15, nodes, ground, gligen, clip_l, clip_sdxl):
    from test_promises import grounding as stock_model

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
    from test_promises import grounding as stock_model

    positive, negative = ground(conditioning(CIRCLE))
    with torch.inference_mode():
        apply = core_nodes["GLIGENTextBoxApply"]().append
        positive = apply(positive, clip_l, stock_model(tiny_sd15), "bar", 64, 64, 0, 0)[0]
    with pytest.raises(LimelightError, match="behind Highlight GLIGEN uses another GLIGEN model"):
        sample(tiny_sd15, positive, negative)


# The loader -----------------------------------------------------------------------------------------------------------


def test_the_loader_lists_and_loads(host, nodes, tiny_sd15):
    from gligen_weights import in_diffusers
    from safetensors.torch import save_file

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
