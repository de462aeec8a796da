"""Text features of phrases against the reference implementation of the text encoders, as diffusers uses them."""

from __future__ import annotations

import pytest
import torch


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
