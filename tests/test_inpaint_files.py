"""Files of inpainting ControlNets and UNets: every wrapping and layout, where they lie, and what is no such file."""

from __future__ import annotations

import json

import pytest
import torch
from inpaint_weights import NARROW, SD1, SD2, SMALL, XL, control_net, small_state, unet
from safetensors.torch import save_file

from limelight.guidance.errors import LimelightError

SHORT_XL = XL | {"transformer_layers_per_block": (1, 2, 10), "block_out_channels": (320, 320, 320)}


def load(path):
    from limelight.models.inpaint_files import load_control_net

    with torch.inference_mode():
        return load_control_net(path, "control_net_name")


def load_model(path):
    from limelight.models.inpaint_files import load_model

    with torch.inference_mode():
        return load_model(path, "model_name")


@pytest.fixture(scope="module")
def state(host):
    """Diffusers layout."""
    return small_state()


@pytest.fixture(scope="module")
def original(state):
    from limelight.models.inpaint_layouts import to_original

    return to_original(state, "test")


def plain(state):
    return state


def in_parts(state):
    return {"epoch": 3, "optimizer": {"lr": 0.1}, "model": {"controlnet": state}}


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize(
    ("wrap", "prefix", "ending"),
    [
        (plain, "", "safetensors"),
        (plain, "control_model.", "safetensors"),
        (plain, "module.", "pth"),
        (plain, "module.controlnet.", "bin"),
        (lambda state: {"state_dict": state}, "model.control_model.", "ckpt"),
        (lambda state: {"controlnet": state, "step": torch.zeros(1)}, "", "pth"),
        (in_parts, "module.", "pt"),
    ],
)
def test_wrappings_prefixes_and_layouts(tmp_path, state, original, layout, wrap, prefix, ending):
    path = tmp_path / f"net.{ending}"
    contents = wrap({prefix + key: value for key, value in (state if layout == "diffusers" else original).items()})
    if ending == "safetensors":
        save_file(contents, path)
    else:
        torch.save(contents, path)
    found = load(path)
    weights = found.control_model.state_dict()
    assert weights.keys() == original.keys()
    assert all(torch.equal(weights[key], value) for key, value in original.items())
    assert type(found).__name__ == "InpaintControlNet" and found.context_dim == 64


def test_the_control_net_of_a_checkpoint_that_also_holds_its_unet(tmp_path, original):
    from limelight.models.inpaint_layouts import to_original

    whole = {f"control_model.{key}": value for key, value in original.items()}
    model = to_original(unet(**NARROW, in_channels=9).state_dict(), "test")
    whole |= {f"model.diffusion_model.{key}": value for key, value in model.items()}
    save_file(whole, tmp_path / "whole.safetensors")
    assert load(tmp_path / "whole.safetensors").control_model.state_dict().keys() == original.keys()


@pytest.mark.parametrize(
    ("family", "width", "heads"), [(SD1 | SMALL, 768, 8), (SD2 | SMALL, 1024, 5), (SHORT_XL, 2048, 5)]
)
def test_families(tmp_path, host, family, width, heads):
    from comfy.ldm.modules.attention import CrossAttention

    changes = {**family, "attention_head_dim": 8} if width == 768 else family
    with torch.device("meta"):
        shapes = control_net(**changes).state_dict()
    save_file({key: torch.zeros(each.shape, dtype=torch.half) for key, each in shapes.items()}, tmp_path / "n.sft")
    found = load(tmp_path / "n.sft")
    assert found.context_dim == width and found.extra_conds == ["y"]
    assert {each.heads for each in found.control_model.modules() if isinstance(each, CrossAttention)} == {heads}
    precise = torch.float32 if width == 1024 else None
    assert {m.attn_precision for m in found.control_model.modules() if isinstance(m, CrossAttention)} == {precise}


def test_ordinary_control_nets_are_the_hosts(tmp_path, host):
    import comfy.controlnet
    from stand_ins import control_net as original_control_net

    from limelight.shapeworld.nodes import load as load_shapeworld

    save_file(original_control_net(load_shapeworld()[0].model.diffusion_model), tmp_path / "n.safetensors")
    assert type(load(tmp_path / "n.safetensors")) is comfy.controlnet.ControlNet


def test_the_unet_of_a_diffusers_folder_is_an_inpainting_model(tmp_path, core_nodes, monkeypatch):
    import comfy.model_base
    import folder_paths

    torch.manual_seed(0)
    unet(**{**SD2, **SMALL}).half().save_pretrained(tmp_path / "photo" / "unet")
    name = "photo/unet/diffusion_pytorch_model.safetensors"
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusers", ([str(tmp_path)], ["folder"]))
    from limelight.nodes.salient_object_loaders import LimelightInpaintModelLoader

    with torch.inference_mode():
        (model,) = LimelightInpaintModelLoader.execute(name).result
    assert model.model.concat_keys == ("mask", "masked_image")
    assert model.model.model_type is comfy.model_base.ModelType.EPS
    with pytest.raises(Exception):  # noqa: B017 - what the host says of it is the host's business
        core_nodes["UNETLoader"]().load_unet(name, "default")


def test_where_files_are_found(tmp_path, state, monkeypatch, host):
    import folder_paths

    from limelight.nodes import salient_object_loaders as nodes

    parts = {"controlnet": state, "unet": {"x": torch.zeros(1)}, "vae": {"x": torch.zeros(1)}}
    for kind, sub in (("diffusers", "photo"), ("controlnet", "folder")):
        for part, tensors in parts.items():
            place = tmp_path / kind / sub / part
            place.mkdir(parents=True)
            save_file(tensors, place / "diffusion_pytorch_model.safetensors")
    (tmp_path / "diffusers" / "photo" / "controlnet" / "config.json").write_text("{}")
    (tmp_path / "outside.safetensors").write_bytes(b"")
    for kind, endings in (("controlnet", folder_paths.supported_pt_extensions), ("diffusers", ["folder"])):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], endings))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    (widget,) = nodes.LimelightInpaintControlNetLoader.define_schema().inputs
    file = "controlnet/diffusion_pytorch_model.safetensors"
    assert [name.replace("\\", "/") for name in widget.options] == [f"folder/{file}", f"photo/{file}"]
    with torch.inference_mode():
        for name in widget.options:
            (found,) = nodes.LimelightInpaintControlNetLoader.execute(name).result
            assert found.control_model.in_channels == 9
    for name in ("gone.safetensors", "../outside.safetensors"):
        with pytest.raises(
            LimelightError, match="neither in models/controlnet nor in models/diffusers.*huggingface.*yahoo-inc"
        ):
            nodes.LimelightInpaintControlNetLoader.execute(name)
        with pytest.raises(LimelightError, match="models/diffusion_models.*sd2-community"):
            nodes.LimelightInpaintModelLoader.execute(name)


def first(state, channels):
    return {**state, "conv_in.weight": torch.zeros(64, channels, 3, 3)}


def without(state, part):
    return {key: value for key, value in state.items() if part not in key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"lora.up.weight": torch.zeros(1)}, "not a ControlNet.*huggingface"),
        (
            lambda s: {"x": torch.zeros(1), **{f"vae.{k}": v for k, v in unet(**NARROW).state_dict().items()}},
            "not a Co",
        ),
        (lambda s: first(s, 8), "found 8 input channels; expected 9"),
        (lambda s: first(s, 12), "found 12 input channels"),
        (lambda s: {**s, "conv_in.weight": torch.zeros(64 * 81, 1)}, "the shape .5184, 1.; expected"),
        (lambda s: first(s, 4), "weights do not go together"),
        (lambda s: without(s, "mid_block.resnets.1.conv1"), "not whole: middle_block.2.in_layers.2.bias is missing"),
        (lambda s: without(s, "controlnet_down_blocks.1."), "not whole: zero_convs.1.0.bias is missing"),
        (lambda s: without(s, "controlnet_down_blocks"), "finds no ControlNet"),
        (lambda s: without(s, "down_blocks."), "weights do not go together|finds no ControlNet"),
        (lambda s: {**s, "mid_block.resnets.0.conv1.weight": torch.zeros(64, 32, 3, 3)}, "not go together.*mismatch"),
        (lambda s: {**s, "down_blocks.0.lora.up": torch.zeros(1)}, "1 of its .* weights have no place"),
    ],
)
def test_files_that_are_no_such_control_net(tmp_path, state, change, words):
    save_file(change(dict(state)), tmp_path / "net.safetensors")
    with pytest.raises(LimelightError, match=r"control_net_name.*net\.safetensors.*" + words):
        load(tmp_path / "net.safetensors")


@pytest.mark.parametrize("ending", ["safetensors", "pth", "bin"])
@pytest.mark.parametrize("kind", ["truncated", "random", "empty", "json", "a number"])
def test_files_that_cannot_be_read(tmp_path, state, ending, kind):
    path = tmp_path / f"net.{ending}"
    save = save_file if ending == "safetensors" else torch.save
    save(state if kind == "truncated" or ending == "safetensors" else 7, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "random":
        path.write_bytes(bytes(torch.randint(0, 256, (20_000,), dtype=torch.uint8).tolist()))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "json" or ending == "safetensors":
        path.write_text(json.dumps({"model": 1}) * 50)
    for read in (load, load_model):
        with pytest.raises(LimelightError, match=r"_name.*net\." + ending):
            read(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"in_channels": 4}, "found 4 input channels.*Load Diffusion Model"),
        ({"in_channels": 8}, "found 8 input channels.*cannot be used"),
        ({"cross_attention_dim": 48}, "its text is 48 wide.*Stable Diffusion 1.5"),
    ],
)
def test_models_that_are_no_inpainting_models(tmp_path, host, change, words):
    save_file(unet(**{**NARROW, **change}).state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(LimelightError, match=r"model_name \(unet\.safetensors\): .*" + words):
        load_model(tmp_path / "unet.safetensors")


def test_a_control_net_is_no_model(tmp_path, state):
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(LimelightError, match="not a UNet of Stable Diffusion.*huggingface"):
        load_model(tmp_path / "net.safetensors")
