"""GLIGEN's layers against those of diffusers and of the host; half precision, strength, models that do not fit."""

from __future__ import annotations

import pytest
import torch
from gligen_weights import SD1, XL, gligen_of, random_gligen

from limelight.guidance.attention.grounding import SLOTS, Grounding
from limelight.guidance.errors import LimelightError

TOLERANCE = 1e-5
HEADS = 4  # of the tiny UNet


@pytest.fixture(scope="module")
def sd1(make_sd15):
    """The block structure of SD 1.x."""
    return make_sd15(**SD1).model.diffusion_model


@pytest.fixture(scope="module")
def weights(sd1):
    return random_gligen(sd1, 64)


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
