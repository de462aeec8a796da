"""Taking a ControlNet out of a training checkpoint: GazeFusion's layout, errors, the command line."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import NARROW_SD2, random_weights
from guided_runs import noise
from safetensors import safe_open
from safetensors.torch import save_file

from limelight.bench.random_unet import SD15, SDXL
from limelight.guidance.errors import LimelightError
from limelight.models import controlnet_files, convert

SD21 = SD15 | {"context_dim": 1024, "num_heads": -1, "num_head_channels": 64, "use_linear_in_transformer": True}
NARROW = NARROW_SD2 | {"model_channels": 64, "num_head_channels": 64}


def network(config: dict, **options):
    """The host's ControlNet class, without values on the device `meta`."""
    import comfy.cldm.cldm

    config = {key: v for key, v in config.items() if key not in ("out_channels", "transformer_depth_output")}
    return comfy.cldm.cldm.ControlNet(**config, hint_channels=3, **options)


@pytest.fixture(scope="module")
def layouts(host) -> dict[str, dict[str, torch.Tensor]]:
    """Keys and shapes of the published sizes, from the host's own class."""
    configs = {"SD 1.5": SD15, "SD 2.1": SD21, "SDXL": SDXL}
    return {name: network(config, device="meta").state_dict() for name, config in configs.items()}


@pytest.fixture(scope="module")
def narrow(host):
    """A narrow ControlNet of SD 2.1's structure with random weights."""
    made = network(NARROW)
    random_weights(made, seed=3)
    return made


def lightning(state: dict[str, torch.Tensor], path: Path) -> Path:
    """A checkpoint as Lightning writes it in the training of a ControlNet."""
    whole = {f"control_model.{key}": value for key, value in state.items()}
    whole |= {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, 4, 3, 3), "betas": torch.zeros(1000)}
    whole |= {"first_stage_model.encoder.conv_in.weight": torch.ones(4, 3, 3, 3), "logvar": torch.zeros(1000)}
    extra = {"optimizer_states": [{"state": {0: {"step": torch.tensor(5.0)}}}], "epoch": 1, "global_step": 500000}
    settings = {"hyper_parameters": argparse.Namespace(lr=1e-5), "pytorch-lightning_version": "2.5.0"}
    torch.save({"state_dict": whole, **extra, **settings}, path)
    return path


def load(core_nodes, host, path: Path):
    """The file by the host's ControlNetLoader."""
    folder = host.base / "models" / "controlnet"
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / path.name
    path.replace(place)
    try:
        with torch.inference_mode():
            return core_nodes["ControlNetLoader"]().load_controlnet(path.name)[0]
    finally:
        place.unlink()


def test_gazefusions_340_tensors_load_in_the_stock_loader(layouts, core_nodes, host, tmp_path, caplog, capsys):
    shapes = {key: value.shape for key, value in layouts["SD 2.1"].items()}
    assert len(shapes) == 340 and sum(shape.numel() for shape in shapes.values()) == 364_228_240
    values = {key: (i + 1) / 512 for i, key in enumerate(sorted(shapes))}  # each its own, exact in 16 bits
    spread = {key: torch.tensor(values[key]).expand(shape) for key, shape in shapes.items()}  # one number on the disk
    source = lightning(spread, tmp_path / "gazefusion-sd21.ckpt")
    assert source.stat().st_size < 1e6
    target = tmp_path / "gazefusion_test.safetensors"
    assert convert.main([str(source), str(target), "--half"]) == convert.DONE
    assert "340 tensors, 728 MB, for prompts 1024 wide" in capsys.readouterr().out
    with safe_open(target, "pt") as file:
        assert set(file.keys()) == set(shapes)
        assert file.metadata()["context_width"] == "1024" and file.metadata()["source"] == source.name
    with caplog.at_level(logging.DEBUG):
        control = load(core_nodes, host, target)
    assert "missing controlnet keys" not in caplog.text and "unexpected controlnet keys" not in caplog.text
    found = control.control_model.state_dict()
    assert {key: value.shape for key, value in found.items()} == shapes
    assert all(value.flatten()[0] == values[key] == value.flatten()[-1] for key, value in found.items())
    attention = control.control_model.input_blocks[1][1].transformer_blocks[0].attn2
    assert attention.heads == 5 and attention.attn_precision == torch.float32  # in 16 bits SD 2.1 would overflow


def test_the_extracted_network_computes_what_the_source_does(narrow, core_nodes, host, tmp_path):
    target = tmp_path / "narrow_test.safetensors"
    about = convert.convert(lightning(narrow.state_dict(), tmp_path / "trained.ckpt"), target)
    assert about["trained"] == "true" and about["tensors"] == "340"
    control = load(core_nodes, host, target)
    given = {"x": noise(2, 4, 16, 16), "hint": noise(2, 3, 128, 128, seed=1).clamp(0, 1)}
    given |= {"timesteps": torch.tensor([3.0, 700.0]), "context": noise(2, 77, NARROW["context_dim"], seed=2)}
    with torch.inference_mode():
        expected, found = narrow(**given), control.control_model(**given)
    assert expected["output"][0].std() > 0 and len(expected["output"]) == 12
    for place in ("middle", "output"):
        for here, there in zip(expected[place], found[place], strict=True):
            assert (here - there).abs().max() <= 1e-5 * here.abs().max()


@pytest.mark.parametrize("form", ["pth", "old.pth", "prefixed.safetensors", "bare.safetensors"])
def test_other_forms_of_the_same(narrow, tmp_path, form):
    state, source = narrow.state_dict(), tmp_path / f"net.{form}"
    prefixed = {f"control_model.{key}": value for key, value in state.items()}
    if form == "bare.safetensors":
        save_file(state | {"stray": torch.zeros(2)}, source)
    elif form == "prefixed.safetensors":
        save_file(prefixed, source)
    else:
        torch.save(prefixed, source, _use_new_zipfile_serialization=form == "pth")
    convert.convert(source, tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert set(file.keys()) == set(state)
        assert all(torch.equal(file.get_tensor(key), value) for key, value in state.items())


@pytest.mark.parametrize(("name", "count"), [("SD 1.5", 340), ("SD 2.1", 340), ("SDXL", 844)])
def test_every_missing_tensor_is_noticed(layouts, name, count):
    state = layouts[name]
    assert len(state) == count and controlnet_files.missing(state) == []
    for key in list(state)[:: count // 340]:
        lacking = controlnet_files.missing({other: value for other, value in state.items() if other != key})
        assert lacking == [key]


def test_missing_modules_are_listed(layouts, narrow, tmp_path):
    state = narrow.state_dict()
    less = {key: value for key, value in state.items() if not key.startswith("input_blocks.10.")}
    with pytest.raises(LimelightError, match=r"INPUT \(a.ckpt\): the ControlNet lacks 1 tensors: input_blocks.10.0.\*"):
        convert.convert(lightning(less, tmp_path / "a.ckpt"), tmp_path / "out.safetensors")
    less = {key: value for key, value in state.items() if not key.startswith("input_blocks.4.1.")}
    with pytest.raises(LimelightError, match=r"lacks 26 tensors: input_blocks.4.1.norm.bias, .* and 14 more"):
        convert.convert(lightning(less, tmp_path / "b.ckpt"), tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["model.diffusion_model.input_blocks.0.0.weight"], "a model without a ControlNet"),
        (["controlnet_cond_embedding.conv_in.weight"], "in the layout of diffusers"),
        (["lora_controlnet"], "a Control-LoRA"),
        (["body.0.resnets.0.block1.weight"], "a T2I-Adapter"),
        (["lora_unet_x.alpha"], r"1 entries that are no ControlNet \(lora_unet_x.alpha"),
        ([], "an empty file"),
        (["control_model.zero_convs.0.0.weight", "difference"], "only the difference"),
    ],
)
def test_what_is_no_control_net_is_named(tmp_path, keys, message):
    torch.save({"state_dict": {key: torch.ones(1) for key in keys}}, tmp_path / "a.ckpt")
    with pytest.raises(LimelightError, match=message):
        convert.convert(tmp_path / "a.ckpt", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_broken_files_and_wrong_places(narrow, tmp_path):
    whole, out = lightning(narrow.state_dict(), tmp_path / "a.ckpt"), tmp_path / "out.safetensors"
    data = whole.read_bytes()
    for name, content in (
        ("cut.ckpt", data[: len(data) // 2]),
        ("text.ckpt", b"<html>Not found</html>"),
        ("empty.ckpt", b""),
        ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LimelightError, match=rf"INPUT: {name} (cannot be read|is not a safetensors file).* again"):
            convert.convert(tmp_path / name, out)
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(LimelightError, match="found no weights in it but a value of type Tensor"):
        convert.convert(tmp_path / "tensor.pt", out)
    with pytest.raises(LimelightError, match="INPUT: found no file"):
        convert.convert(tmp_path, out)
    with pytest.raises(LimelightError, match="OUTPUT: found out.ckpt; expected a name that ends in .safetensors"):
        convert.convert(whole, tmp_path / "out.ckpt")
    with pytest.raises(LimelightError, match="OUTPUT: there is no folder"):
        convert.convert(whole, tmp_path / "no" / "out.safetensors")
    out.write_bytes(b"mine")
    with pytest.raises(LimelightError, match="is there already"):
        convert.convert(whole, out)
    assert out.read_bytes() == b"mine" and not list(tmp_path.glob("*.part"))


def test_numbers_that_do_not_fit(narrow, tmp_path):
    state = narrow.state_dict()
    large = state | {"time_embed.0.bias": state["time_embed.0.bias"] + 1e5}
    source = lightning(large, tmp_path / "a.ckpt")
    with pytest.raises(LimelightError, match="time_embed.0.bias has values that are not finite, in 16 bits; .* --half"):
        convert.convert(source, tmp_path / "out.safetensors", half=True)
    convert.convert(source, tmp_path / "out.safetensors")
    source = lightning(state | {"time_embed.0.bias": large["time_embed.0.bias"] * float("nan")}, tmp_path / "b.ckpt")
    with pytest.raises(LimelightError, match="already in the file"):
        convert.convert(source, tmp_path / "out2.safetensors")


def test_an_untrained_one_is_said_to_be_untrained(narrow, tmp_path, capsys):
    state = {
        key: value * 0 if key.startswith(controlnet_files.LAST) else value for key, value in narrow.state_dict().items()
    }
    source = lightning(state, tmp_path / "gazefusion-init-sd21.ckpt")
    assert convert.main([str(source), str(tmp_path / "out.safetensors")]) == convert.DONE
    assert "warning: this ControlNet is untrained" in capsys.readouterr().out


def test_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "limelight.models.convert", "none.ckpt", "out.safetensors"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (
        done.returncode == convert.FAILED and done.stderr == "error: INPUT: found no file none.ckpt. Check the path.\n"
    )
