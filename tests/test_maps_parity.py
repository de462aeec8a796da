"""Captured maps against an implementation that is not ours: diffusers, on the same random weights."""

from __future__ import annotations

import pytest
import torch
from conftest import CONTEXT, NARROW_SD15, NARROW_SDXL, TINY_SD15
from guided_runs import CIRCLE, conditioning, look, noise, prepared

TOLERANCE = 1e-5
CROSS_DOWN, CROSS_UP, DOWN, UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "DownBlock2D", "UpBlock2D"

# the host's settings of a structure, and diffusers' for the same
SMALL = (
    TINY_SD15,
    {
        "layers_per_block": 1,
        "block_out_channels": (32, 64, 64),
        "down_block_types": (CROSS_DOWN,) * 3,
        "up_block_types": (CROSS_UP,) * 3,
        "cross_attention_dim": CONTEXT,
        "attention_head_dim": 4,  # the number of heads, in spite of the name
    },
)
SD15 = (
    NARROW_SD15,
    {
        "layers_per_block": 2,
        "block_out_channels": (32, 64, 128, 128),
        "down_block_types": (CROSS_DOWN,) * 3 + (DOWN,),
        "up_block_types": (UP,) + (CROSS_UP,) * 3,
        "cross_attention_dim": CONTEXT,
        "attention_head_dim": 8,
    },
)
SDXL = (
    NARROW_SDXL,
    {
        "layers_per_block": 2,
        "block_out_channels": (32, 64, 128),
        "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, UP),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": NARROW_SDXL["context_dim"],
        "attention_head_dim": (2, 4, 8),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": NARROW_SDXL["adm_in_channels"],
    },
)


class KeepMaps:
    """An attention processor of diffusers that computes attention explicitly and keeps the cross-attention maps."""

    def __init__(self, maps: list) -> None:
        self.maps = maps

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(layer(t))
            for layer, t in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        scores = attn.get_attention_scores(q, k, attention_mask)
        if encoder_hidden_states is not None:
            self.maps.append(scores.unflatten(0, (-1, attn.heads)).mean(1))
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(scores @ v)))


@pytest.mark.parametrize(
    ("kind", "structures", "size", "maps"),
    [
        ("SD15", SMALL, (16, 16), 10),
        ("SD15", SD15, (32, 32), 16),
        ("SD15", SD15, (24, 40), 16),
        ("SDXL", SDXL, (32, 24), 70),
    ],
    ids=["small", "sd15", "sd15-wide", "sdxl"],
)
def test_maps_are_those_of_diffusers(make_unet, kind, structures, size, maps):
    diffusers = pytest.importorskip("diffusers")
    import comfy.utils

    ours, theirs = structures
    model = make_unet(kind, **ours)
    reference = diffusers.UNet2DConditionModel(sample_size=16, **theirs)
    weights = model.model.diffusion_model.state_dict()
    names = comfy.utils.unet_to_diffusers(ours)
    reference.load_state_dict({name: weights[names[name]].clone() for name in reference.state_dict()})
    expected = []
    reference.set_attn_processor(KeepMaps(expected))

    x, sigma, pooled = noise(2, 4, *size) * 5, 5.0, noise(1, 96, seed=7)
    options = {"pooled_output": pooled} if kind == "SDXL" else {}
    positive = conditioning(CIRCLE, width=ours["context_dim"], **options)
    run = prepared(model, positive, x, sigma)
    added = {}
    if kind == "SDXL":
        height, width = (8 * side for side in size)
        sizes = torch.tensor([[height, width, 0, 0, height, width]])
        added = {"text_embeds": pooled.expand(2, -1), "time_ids": sizes.expand(2, -1)}
    with torch.no_grad():
        time = model.model.model_sampling.timestep(torch.tensor([sigma]))
        context = positive[0][0].expand(2, -1, -1)
        reference(x / (sigma**2 + 1) ** 0.5, time, context, added_cond_kwargs=added)

    found = []

    def keep(maps, targets, tokens):
        found.append(maps.detach())
        return maps.flatten(1).sum(1, keepdim=True)

    look(run, x, loss=keep, layers="input, middle, output")
    assert len(found) == len(expected) == maps
    worst = max((mine.flatten(1, 2) - other).abs().max() for mine, other in zip(found, expected, strict=True))
    assert worst < TOLERANCE, f"largest difference of {maps} maps: {worst:.1e}"
