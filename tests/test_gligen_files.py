"""GLIGEN in every published layout and file, and files that are not whole."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch
from gligen_weights import SD1, XL, gligen_of, in_diffusers, random_gligen
from safetensors.torch import save_file

from limelight.guidance.errors import LimelightError


@pytest.fixture(scope="module")
def weights(make_sd15):
    """The block structure of SD 1.x."""
    return random_gligen(make_sd15(**SD1).model.diffusion_model, 64)


def load(path):
    from limelight.models import gligen_files, gligen_keys

    return gligen_keys.read(gligen_files.load_state(path), path.name)


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
    from limelight.models.files import offered

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
