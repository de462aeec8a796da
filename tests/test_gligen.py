"""GLIGEN against diffusers' layers, in every published layout, and its errors."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch
from gligen_weights import gligen_of, in_diffusers, random_gligen
from safetensors.torch import save_file

from limelight.guidance.errors import LimelightError
from limelight.guidance.grounding import SLOTS, Grounded, Grounding

TOLERANCE = 1e-5
HEADS = 4  # of the tiny UNet
XL = {  # the block structure of SDXL: none, 2 and 10 transformer blocks a level, here 2 and 3
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 3, 3],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 3, 3, 3],
    "transformer_depth_middle": 3,
    "num_heads": -1,
    "num_head_channels": 16,
}
SD1 = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}


@pytest.fixture(scope="module")
def sd1(make_sd15):
    """The block structure of SD 1.x."""
    return make_sd15(**SD1).model.diffusion_model


@pytest.fixture(scope="module")
def weights(sd1):
    return random_gligen(sd1, 64)


def load(path):
    from limelight.models import gligen_files, gligen_keys

    return gligen_keys.read(gligen_files.load_state(path), path.name)


# Layers ---------------------------------------------------------------------------------------------------------------


def projection(state, features, tokens):
    """Diffusers' projection with the same weights."""
    from diffusers.models.embeddings import GLIGENTextBoundingboxProjection

    module = GLIGENTextBoundingboxProjection(features, tokens)
    start = "position_net."
    module.load_state_dict({key[len(start) :]: value for key, value in state.items() if key.startswith(start)})
    return module


def gated(state, block, heads):
    """Diffusers' gated attention with the same weights."""
    from diffusers.models.attention import GatedSelfAttentionDense

    part = {key.split(".fuser.")[1]: value for key, value in state.items() if key.startswith(f"{block}.")}
    dim, tokens = part["linear.weight"].shape
    module = GatedSelfAttentionDense(dim, tokens, heads, dim // heads)
    module.load_state_dict(part)
    return module


def extra(block, index, heads):
    return {"block": block, "block_index": index, "n_heads": heads, "dim_head": 0}


PLACES = {
    "input_blocks.4.1.transformer_blocks.0": (("input", 4), 0),
    "middle_block.1.transformer_blocks.0": (("middle", 0), 0),
    "output_blocks.3.1.transformer_blocks.0": (("output", 3), 0),
}


@pytest.mark.parametrize(
    ("structure", "features", "tokens", "places"),
    [
        (SD1, 64, 64, PLACES),
        (SD1, 96, 64, PLACES),
        (
            XL,
            160,
            160,
            {
                "input_blocks.4.1.transformer_blocks.1": (("input", 4), 1),
                "middle_block.1.transformer_blocks.2": (("middle", 0), 2),
                "output_blocks.0.1.transformer_blocks.2": (("output", 0), 2),
                "output_blocks.5.1.transformer_blocks.0": (("output", 5), 0),
            },
        ),
    ],
    ids=["SD 1", "tokens of another width", "SDXL"],
)
def test_layers_equal_those_of_diffusers(make_sd15, structure, features, tokens, places):
    state = random_gligen(make_sd15(**structure).model.diffusion_model, features, tokens)
    model = gligen_of(state).model
    boxes = [(0.1, 0.2, 0.5, 0.9), (0.0, 0.0, 1.0, 1.0), (0.25, 0.5, 0.375, 0.625)]
    said = torch.randn(3, features)
    stock = [
        (said[i : i + 1], (y1 - y0) * 32, (x1 - x0) * 16, y0 * 32, x0 * 16) for i, (x0, y0, x1, y1) in enumerate(boxes)
    ]
    masks = torch.zeros(2, SLOTS)
    masks[:, :3] = 1
    given, phrases = torch.zeros(2, SLOTS, 4), torch.zeros(2, SLOTS, features)
    given[:, :3], phrases[:, :3] = torch.tensor(boxes), said
    with torch.no_grad():
        objects = projection(state, features, tokens)(given, masks, phrases)
        nothing = projection(state, features, tokens)(given, masks * 0, phrases)
        for name, (block, index) in places.items():
            dim = state[f"{name}.fuser.norm1.weight"].shape[0]
            reference, x = gated(state, name, HEADS), torch.randn(2, 40, dim)
            options = extra(block, index, HEADS)
            found = model.set_position(torch.Size((2, 4, 32, 16)), stock, x.device)(x, dict(options))
            empty = model.set_empty(torch.Size((2, 4, 32, 16)), x.device)(x, dict(options))
            expected = reference(x, objects)
            assert (found - expected).abs().max() < TOLERANCE
            assert (empty - reference(x, nothing)).abs().max() < TOLERANCE
            assert (found - empty).abs().max() > 0.01
            assert (found - x).abs().max() > 0.1


def test_stock_model_agrees(make_sd15):
    import comfy.gligen

    from limelight.models import gligen, gligen_keys

    state = random_gligen(make_sd15(**SD1, model_channels=64).model.diffusion_model, 64)
    stock, ours = comfy.gligen.load_gligen(state), gligen.TextBoxGligen(gligen_keys.read(state, "test"))
    entry = (torch.randn(1, 64), 5, 7, 2, 3)
    x, shape, device = torch.randn(1, 16, 128), torch.Size((1, 4, 16, 12)), torch.device("cpu")
    with torch.no_grad():
        expected = stock.set_position(shape, [entry], device)(x, {"transformer_index": 3})
        heads = stock.module_list[3].attn.heads  # the host takes 64 channels a head for files that are not of SD 1
        found = ours.set_position(shape, [entry], device)(x, extra(("input", 5), 0, heads))
    assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("strength", [0.0, 0.4])
def test_strength_scales_the_gates(sd1, weights, strength):
    model, x = gligen_of(weights).model, torch.randn(1, 12, 32)
    entry = (torch.randn(1, 64), 5, 7, 2, 3)
    reference = gated(weights, "input_blocks.1.1.transformer_blocks.0", HEADS)
    with torch.no_grad():
        for gate in (reference.alpha_attn, reference.alpha_dense):
            gate.copy_(torch.atanh(strength * torch.tanh(gate)))
        objects = projection(weights, 64, 64)(
            torch.tensor([[[3 / 12, 2 / 16, 10 / 12, 7 / 16]] + [[0.0] * 4] * 29]),
            torch.eye(SLOTS)[:1],
            torch.cat([entry[0], torch.zeros(29, 64)])[None],
        )
        patch = model.set_position(torch.Size((1, 4, 16, 12)), Grounding([entry], strength), x.device)
        found = patch(x, extra(("input", 1), 0, HEADS))
        assert (found - reference(x, objects)).abs().max() < TOLERANCE
    assert torch.equal(found, x) == (strength == 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_and_files(sd1, weights, dtype):
    entry = (torch.randn(1, 64), 5, 7, 2, 3)
    x, options = torch.randn(1, 24, 32), extra(("input", 1), 0, HEADS)
    shape = torch.Size((1, 4, 16, 12))
    with torch.no_grad():
        expected = gligen_of(weights).model.set_position(shape, [entry], x.device)(x, options)
        small = gligen_of({key: value.to(dtype) for key, value in weights.items()}).model
        assert {value.dtype for value in small.state_dict().values()} == {dtype}
        for given in (x, x.to(dtype)):
            found = small.set_position(shape, [entry], x.device)(given, dict(options))
            assert found.dtype == given.dtype
            assert (found.float() - expected).abs().max() < 0.1


# Layouts --------------------------------------------------------------------------------------------------------------


def same(found, weights):
    """Every weight of the pruned layout is there, at its block."""
    from limelight.models import gligen_keys

    expected = gligen_keys.read(weights, "test")
    assert found.fusers.keys() == expected.fusers.keys()
    for block, tensors in expected.fusers.items():
        assert tensors.keys() == found.fusers[block].keys()
        assert all(torch.equal(value, found.fusers[block][key]) for key, value in tensors.items())
    assert all(torch.equal(value, found.position[key]) for key, value in expected.position.items())


def test_the_pruned_layout_names_the_blocks_of_sd1(weights):
    from limelight.models import gligen_keys

    blocks = list(gligen_keys.read(weights, "test").fusers)
    assert blocks == [
        *(("input", number, 0) for number in (1, 2, 4, 5, 7, 8)),
        ("middle", 0, 0),
        *(("output", number, 0) for number in range(3, 12)),
    ]


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "unet.", "module."])
@pytest.mark.parametrize("layout", ["pruned", "diffusers"])
def test_files_with_other_weights_and_prefixes(tmp_path, weights, prefix, layout):
    state = in_diffusers(weights, 2) if layout == "diffusers" else weights
    assert layout == "pruned" or "down_blocks.2.attentions.1.transformer_blocks.0.fuser.linear.weight" in state
    others = {
        "pruned": ["input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", "time_embed.0.weight"],
        "diffusers": ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight", "conv_in.weight"],
    }[layout]
    state = {prefix + key: value for key, value in {**state, **{key: torch.zeros(2) for key in others}}.items()}
    save_file(state, tmp_path / "model.safetensors")
    same(load(tmp_path / "model.safetensors"), weights)
    torch.save(state, tmp_path / "model.bin")
    same(load(tmp_path / "model.bin"), weights)


@pytest.mark.parametrize(("structure", "per_level"), [(XL, 2), ({}, 1)], ids=["SDXL", "one a level"])
def test_diffusers_blocks_of_other_models(tmp_path, make_sd15, structure, per_level):
    network = make_sd15(**structure).model.diffusion_model
    state = random_gligen(network, 160)
    save_file(in_diffusers(state, per_level), tmp_path / "unet.safetensors")
    found = load(tmp_path / "unet.safetensors")
    same(found, state)
    gligen_of(state).model.check_fits(network)


def test_names_in_diffusers_own_networks(host):
    """Keys as diffusers itself writes them, with its own GLIGEN UNet, and with the depths of SDXL."""
    from diffusers import UNet2DConditionModel

    from limelight.models import gligen_keys

    for depths, kinds, blocks in (
        (1, ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"), 2 * 2 + 1 + 2 * 3),
        ((1, 2, 3), ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), 2 * 5 + 3 + 3 * 5),
    ):
        ups = tuple(kind.replace("Down", "Up") for kind in reversed(kinds))
        unet = UNet2DConditionModel(
            block_out_channels=(32, 32, 64),
            down_block_types=kinds,
            up_block_types=ups,
            transformer_layers_per_block=depths,
            cross_attention_dim=48,
            attention_head_dim=8,
            norm_num_groups=8,
            attention_type="gated",
        )
        found = gligen_keys.read(unet.state_dict(), "test")
        assert len(found.fusers) == blocks
        fuser = unet.up_blocks[1].attentions[2].transformer_blocks[0].fuser
        assert torch.equal(found.fusers["output", 5, 0]["linear.weight"], fuser.linear.weight)


def test_a_model_in_several_files(tmp_path, weights):
    state = in_diffusers(weights, 2)
    halves = [dict(list(state.items())[part::2]) for part in range(2)]
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, tmp_path / name)
    for name in names:
        same(load(tmp_path / name), weights)
    (tmp_path / names[1]).unlink()
    with pytest.raises(LimelightError, match="one of 2 pieces.*-00002-of-00002"):
        load(tmp_path / names[0])


def test_the_original_checkpoint_is_loaded_without_its_settings(tmp_path, weights, monkeypatch):
    """It holds a whole Stable Diffusion, and its settings as objects of a library that need not be there."""
    library = types.ModuleType("settings_library")
    ran = []

    class Settings:
        def __init__(self):
            self.values = {"a": 1}

        def __setstate__(self, state):
            ran.append(state)

        def __reduce__(self):
            return build, (), self.__dict__

    def build():
        ran.append("built")
        return Settings()

    for item in (Settings, build):
        item.__module__, item.__qualname__ = library.__name__, item.__name__
        setattr(library, item.__name__, item)
    monkeypatch.setitem(sys.modules, library.__name__, library)
    network = {**weights, "input_blocks.0.0.weight": torch.zeros(4), "out.2.bias": torch.zeros(4)}
    others = {"autoencoder": {"x": torch.zeros(1)}, "text_encoder": {}, "diffusion": {"betas": torch.zeros(3)}}
    settings = {"_content": {"model": Settings(), "kinds": {Settings: 1}}}
    torch.save({"model": network, **others, "config_dict": settings}, tmp_path / "diffusion_pytorch_model.bin")
    monkeypatch.delitem(sys.modules, library.__name__)
    allowed = set(torch.serialization.get_safe_globals())
    same(load(tmp_path / "diffusion_pytorch_model.bin"), weights)
    assert not ran
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_which_files_are_offered():
    from limelight.models.gligen_files import offered

    unet = "gligen/unet/diffusion_pytorch_model"
    listed = [
        "gligen_sd14_textbox_pruned.safetensors",
        f"{unet}.bin",
        "gligen/vae/diffusion_pytorch_model.bin",
        "gligen/text_encoder/model.safetensors",
        "gligen/safety_checker/model.safetensors",
        f"{unet}-00001-of-00002.safetensors",
        f"{unet}-00002-of-00002.safetensors",
    ]
    assert offered(listed) == [listed[0], listed[1], listed[5]]


# Errors ---------------------------------------------------------------------------------------------------------------


def without(state, *parts):
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"lora_unet.alpha": torch.zeros(1)}, "not a GLIGEN file.*lora_unet.alpha"),
        (lambda s: {}, "not a GLIGEN file.*no tensor at all"),
        (lambda s: [1, 2], "not a GLIGEN file"),
        (lambda s: without(s, ".fuser."), "not a GLIGEN file"),
        (lambda s: without(s, "position_net"), "position_net is incomplete"),
        (lambda s: without(s, "linears.2.bias"), "position_net is incomplete; missing linears.2.bias"),
        (lambda s: without(s, "middle_block.1.transformer_blocks.0.fuser.attn.to_k"), "block middle.*to_k.weight"),
        (lambda s: without(s, "output_blocks.3.1.transformer_blocks.0.fuser.alpha"), "output 3.*alpha_attn, alpha_den"),
        (
            lambda s: {**s, "input_blocks.1.1.transformer_blocks.0.fuser.attn.to_q.bias": torch.zeros(1)},
            "input 1 has weights that text-box GLIGEN does not know: attn.to_q.bias",
        ),
        (lambda s: {**s, "blocks.7.fuser.linear.weight": torch.zeros(1)}, "unknown places: blocks.7.fuser"),
        (
            lambda s: {**without(s, "null_positive"), "position_net.null_image_feature": torch.zeros(1)},
            "not a text-box one.*null_image_feature",
        ),
        (
            lambda s: {**s, "unet.middle_block.1.transformer_blocks.0.fuser.alpha_attn": torch.zeros(())},
            "two keys for the same weight",
        ),
        (lambda s: without(in_diffusers(s, 2), "up_blocks.1.attentions.2", "attentions.2"), "2 attentions.*2 going up"),
    ],
)
def test_files_that_are_not_whole(weights, change, words):
    from limelight.models import gligen_keys

    with pytest.raises(LimelightError, match=words):
        gligen_keys.read(change(dict(weights)), "gligen_name (x.safetensors)")


@pytest.mark.parametrize(
    "key", ["position_net.linears.4.weight", "input_blocks.4.1.transformer_blocks.0.fuser.linear.weight"]
)
def test_weights_of_the_wrong_size(weights, key):
    with pytest.raises(LimelightError, match="do not go together.*size mismatch"):
        gligen_of({**weights, key: torch.zeros(7, 5)})


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x.ckpt"])
def test_files_that_are_no_weights(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"model": 1}) * 50)
    with pytest.raises(LimelightError, match="gligen_name: x"):
        load(tmp_path / name)


def test_a_model_of_another_family(make_sd15, sd1, weights):
    model, x = gligen_of(weights).model, torch.randn(1, 8, 32)
    model.check_fits(sd1)
    with pytest.raises(LimelightError, match="made for another model.*SD 1.x"):
        model.check_fits(make_sd15(**XL).model.diffusion_model)
    with pytest.raises(LimelightError, match="32 wide in the model and is 64 wide in GLIGEN"):
        model.check_fits(make_sd15(**{**SD1, "channel_mult": [1, 1, 4, 4]}).model.diffusion_model)
    patch = model.set_empty(torch.Size((1, 4, 8, 8)), x.device)  # the stock nodes: no check before
    with pytest.raises(LimelightError, match="input 4, transformer 1 is 32 wide in the model and is not there in G"):
        patch(x, extra(("input", 4), 1, HEADS))
    with pytest.raises(LimelightError, match="input 4 is 32 wide in the model and is 64 wide in GLIGEN"):
        patch(x, extra(("input", 4), 0, HEADS))


def test_more_objects_than_places(weights):
    model = gligen_of(weights).model
    boxes = [(torch.randn(1, 64), 2, 2, 1, 1)] * SLOTS
    model.set_position(torch.Size((1, 4, 8, 8)), boxes, torch.device("cpu"))
    with pytest.raises(LimelightError, match="found 31 objects.*room for 30"):
        model.set_position(torch.Size((1, 4, 8, 8)), [*boxes, boxes[0]], torch.device("cpu"))


# Boxes ----------------------------------------------------------------------------------------------------------------


def grounded(*shapes):
    from limelight.guidance.document import parse_instances

    (instance,) = parse_instances([{"shapes": list(shapes)}])
    return Grounded.of("phrase", torch.zeros(1, 64), instance)


def png(rows, columns, height=20, width=40):
    import numpy as np

    from limelight.guidance import maskpng

    mask = np.zeros((height, width), np.float32)
    mask[rows, columns] = 1
    mask[0, 0] = 0.3  # below half of the peak
    return {"type": "mask", "png": maskpng.encode(mask)}


STROKE = {"type": "stroke", "points": [[0.3, 0.4], [0.5, 0.8]], "width": 0.1}


@pytest.mark.parametrize(
    ("shapes", "latent", "expected"),
    [
        ([{"type": "box", "box": [0.2, 0.3, 0.4, 0.6]}], (64, 64), (0.2, 0.3, 0.4, 0.6)),
        ([{"type": "box", "box": [-0.2, 0.3, 0.4, 1.6]}], (64, 64), (0.0, 0.3, 0.4, 1.0)),
        ([STROKE], (64, 64), (0.25, 0.35, 0.55, 0.85)),
        ([STROKE], (64, 128), (0.275, 0.35, 0.525, 0.85)),
        ([STROKE], (128, 64), (0.25, 0.375, 0.55, 0.825)),
        ([{"type": "polygon", "points": [[0.1, 0.9], [0.5, 0.2], [0.7, 0.8]]}], (9, 7), (0.1, 0.2, 0.7, 0.9)),
        ([png(slice(5, 10), slice(10, 30))], (64, 64), (0.25, 0.25, 0.75, 0.5)),
        ([STROKE, {"type": "box", "box": [0.0, 0.5, 0.1, 0.6]}], (64, 64), (0.0, 0.35, 0.55, 0.85)),
    ],
)
def test_boxes_of_objects(shapes, latent, expected):
    item = grounded(*shapes)
    assert item.box(latent, 0.0) == pytest.approx(expected)
    x0, y0, x1, y1 = expected
    wide = (max(x0 - 0.05, 0), max(y0 - 0.05, 0), min(x1 + 0.05, 1), min(y1 + 0.05, 1))
    assert item.box(latent, 0.05) == pytest.approx(wide)


def test_boxes_as_an_area_sees_them():
    item = grounded({"type": "box", "box": [0.25, 0.25, 0.5, 0.75]})
    latent = (32, 64)
    assert item.box(latent, 0.0, (32, 64, 0, 0)) == item.box(latent, 0.0)
    assert item.box(latent, 0.0, (32, 32, 0, 0)) == pytest.approx((0.5, 0.25, 1.0, 0.75))
    assert item.box(latent, 0.0, (16, 32, 16, 8)) == pytest.approx((0.25, 0.0, 0.75, 0.5))
    assert item.box(latent, 0.25, (32, 32, 0, 32)) is None  # its margin alone reaches in
    assert item.box(latent, 0.25, (32, 16, 0, 16)) == pytest.approx((0.0, 0.0, 1.0, 1.0))


def test_settings_stay_when_the_stock_node_adds_boxes():
    first = Grounding([grounded(STROKE)], 0.5, (0.1, 0.4), True, 0.2)
    second = first + [(torch.zeros(1, 64), 4, 4, 0, 2)]
    assert len(first), len(second) == (1, 2)
    assert (second.strength, second.window, second.parallel, second.margin) == (0.5, (0.1, 0.4), True, 0.2)
    assert second.slots((8, 8))[1][1] == (0.25, 0.0, 0.75, 0.5)


def test_the_window_is_in_percent_of_the_schedule(tiny_sd15):
    sampling = tiny_sd15.model.model_sampling
    early = Grounding(window=(0.0, 0.3))
    edge = float(sampling.percent_to_sigma(0.3))
    assert early.is_on(float(sampling.sigma_max), sampling) and early.is_on(edge, sampling)
    assert not early.is_on(edge * 0.999, sampling)
    late = Grounding(window=(0.3, 1.0))
    assert not late.is_on(edge * 1.001, sampling) and late.is_on(0.0, sampling)
