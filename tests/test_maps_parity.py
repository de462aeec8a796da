"""Captured maps against an implementation that is not ours: diffusers, on the same random weights."""

from __future__ import annotations

import pytest
import torch
from guided_runs import CIRCLE, conditioning, look, noise, prepared


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


def test_maps_are_those_of_diffusers(tiny_sd15):
    diffusers = pytest.importorskip("diffusers")
    import comfy.utils
    from conftest import CONTEXT, TINY_SD15

    from limelight.guidance.architectures.unet import layout_blocks

    reference = diffusers.UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=CONTEXT,
        attention_head_dim=4,
    )
    weights = tiny_sd15.model.diffusion_model.state_dict()
    names = comfy.utils.unet_to_diffusers(TINY_SD15)
    reference.load_state_dict({name: weights[names[name]].clone() for name in reference.state_dict()})
    theirs = []
    reference.set_attn_processor(KeepMaps(theirs))

    x, sigma, positive = noise(2, 4, 16, 16) * 5, 5.0, conditioning(CIRCLE)
    run = prepared(tiny_sd15, positive, x, sigma)
    with torch.no_grad():
        time = tiny_sd15.model.model_sampling.timestep(torch.tensor([sigma]))
        reference(x / (sigma**2 + 1) ** 0.5, time, positive[0][0].expand(2, -1, -1))

    ours = []

    def keep(maps, targets, tokens):
        ours.append(maps.detach())
        return maps.flatten(1).sum(1, keepdim=True)

    look(run, x, loss=keep)
    blocks = layout_blocks(tiny_sd15.model.diffusion_model, 16, 16)
    cells = {block.grid[0] * block.grid[1] for block in blocks}
    theirs = [maps for maps in theirs if maps.shape[1] in cells]
    assert len(ours) == len(theirs) > 4
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.flatten(1, 2) - other).abs().max() < 1e-5
