"""What bias and guidance refuse on transformers, and in which words."""

from __future__ import annotations

import importlib

import pytest
import torch
from guided_runs import CIRCLE, EVERYWHERE
from transformer_models import build, latent, prompt, run

from limelight.guidance.attention.architectures import family_of
from limelight.guidance.attention.bias import attach
from limelight.guidance.errors import LimelightError

pytest_plugins = ["transformer_fixtures"]


def test_attention_that_is_computed_elsewhere_is_an_error(zimage):
    from comfy.patcher_extension import WrappersMP

    model = zimage.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "elsewhere", lambda executor, x, *args, **kwargs: x)
    with pytest.raises(LimelightError, match="made no attention call over 96 tokens.*image 8 x 8.*none at all"):
        run(attach(model, **EVERYWHERE), prompt(CIRCLE), latent("ZImage"))


def test_text_that_another_node_changes_is_an_error(zimage):
    from comfy.patcher_extension import WrappersMP

    def cut(executor, x, t, c_concat=None, c_crossattn=None, *args, **kwargs):
        return executor(x, t, c_concat, c_crossattn[:, :-3], *args, **kwargs)

    model = zimage.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "cut", cut)
    with pytest.raises(LimelightError, match="was given 17 tokens of text for a conditioning of 20"):
        run(attach(model, **EVERYWHERE), prompt(CIRCLE), latent("ZImage"))


def test_films_and_published_methods_are_refused(zimage):
    with pytest.raises(LimelightError, match="NextDiT.*choose the method 'limelight'"):
        attach(zimage, method="bounded")
    with pytest.raises(LimelightError, match="5 dimensions .a film of 3 frames"):
        film = torch.zeros(1, 16, 3, 16, 16)
        run(attach(build("QwenImage")), prompt(CIRCLE), film)


def test_what_cannot_be_seen_is_refused_with_the_reason(tiny_sd15):
    class PixArtMS(torch.nn.Module):
        pass

    model = tiny_sd15.clone()
    model.model = type("Model", (), {"diffusion_model": PixArtMS()})()
    with pytest.raises(LimelightError, match="PixArtMS: it computes attention by itself.*Z-Image"):
        attach(model)


HOST = {
    "comfy.ldm.pixart.pixartms:PixArtMS": "computes attention by itself",
    "comfy.ldm.hydit.models:HunYuanDiT": "computes attention by itself",
    "comfy.ldm.hunyuan_video.model:HunyuanVideo": "has not been described",
    "comfy.ldm.chroma_radiance.model:ChromaRadiance": "has not been described",
    "comfy.ldm.hidream.model:HiDreamImageTransformer2DModel": "has not been described",
    "comfy.ldm.omnigen.omnigen2:OmniGen2Transformer2DModel": "has not been described",
    "comfy.ldm.aura.mmdit:MMDiT": "has not been described",
    "comfy.ldm.cosmos.model:GeneralDIT": "makes video",
    "comfy.ldm.genmo.joint_model.asymm_models_joint:AsymmDiTJoint": "makes video",
    "comfy.ldm.wan.model:VaceWanModel": "makes video",
    "comfy.ldm.wan.model:CameraWanModel": "makes video",
    "comfy.ldm.wan.model:WanModel_S2V": "makes video",
    "comfy.ldm.wan.model:HumoWanModel": "makes video",
    "comfy.ldm.wan.model_animate:AnimateWanModel": "makes video",
    "comfy.ldm.hunyuan3d.model:Hunyuan3Dv2": "have been described to Limelight",
}


@pytest.mark.parametrize("place", HOST)
def test_the_hosts_other_transformers_are_refused_with_the_reason(host, place):
    module, name = place.split(":")
    kind = getattr(importlib.import_module(module), name)
    with pytest.raises(LimelightError) as caught:
        family_of(kind.__new__(kind))
    message = str(caught.value)
    assert message.startswith(f"model: found a {name}")
    assert HOST[place] in message and message.endswith("connect one of those.")


@pytest.mark.parametrize("name", ["ErnieImageModel", "Anima", "ComfyFluxWrapper", "TrTUnet", "Kandinsky5"])
def test_newer_hosts_and_other_runtimes_are_refused_with_the_reason(host, name):
    from comfy.ldm.cosmos.predict2 import MiniTrainDIT

    kind = type(name, (MiniTrainDIT if name == "Anima" else torch.nn.Module,), {})
    with pytest.raises(LimelightError, match=f"^model: found a {name}: .*connect one of those"):
        family_of(kind.__new__(kind))


def test_tokens_of_unknown_places_are_an_error(host):
    for kind, name in (("WAN21_T2V", "time_dim_concat"), ("LTXV", "keyframe_idxs"), ("ZImage", "ref_latents")):
        network = build(kind).model.diffusion_model
        family = family_of(network)
        family.sequence(network, (16, 16), 20, {name: None})
        with pytest.raises(LimelightError, match=f"is given {name}.*Remove the node"):
            family.sequence(network, (16, 16), 20, {name: torch.zeros(1)})
