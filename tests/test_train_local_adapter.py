"""The trainer of local adapters: the published recipe, ours, its files in the host."""

from __future__ import annotations

import json

import local_training
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from adapter_weights import light
from local_runs import applied, call, entries, hint
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_data import write_shapeworld

from limelight.guidance.errors import LimelightError
from limelight.models import adapter_files
from limelight.tools.console import StepFailed
from limelight.training import adapters, draws, log, masks
from limelight.training import base as bases
from limelight.training import train_local_adapter as trainer


@pytest.fixture(scope="module")
def shapeworld(tmp_path_factory):
    return write_shapeworld(tmp_path_factory.mktemp("shapeworld"))


@pytest.mark.parametrize(("kind", "prediction"), [("SD1", "epsilon"), ("SD2", "v_prediction"), ("SDXL", "flow")])
def test_our_loss(kind, prediction, tmp_path):
    """Each sample by itself, for every kind of prediction; a gradient for the adapter alone, and none for the base."""
    made = local_training.task(local_training.base(kind, prediction), local_training.options(tmp_path))
    batch = local_training.batch(made)
    losses, told = made.loss(batch, draws.Draws(0, range(8, 12)))
    assert losses.isfinite().all() and set(told) == {"mse", "edge_loss", "outside_loss"} and min(told.values()) > 0
    parts = [slice(0, 1), slice(1, 4)]
    apart = [
        made.loss({name: one[part] for name, one in batch.items()}, draws.Draws(0, range(8, 12)[part]))[0]
        for part in parts
    ]
    torch.testing.assert_close(torch.cat(apart), losses, atol=1e-5, rtol=1e-5)
    losses.mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in made.network.parameters())
    assert not any(weight.requires_grad or weight.grad is not None for weight in made.base.unet.parameters())


def test_gradient_checkpointing_changes_nothing(tmp_path):
    """SDXL's first level is changed in place by diffusers."""
    made = local_training.task(local_training.base("SDXL"), local_training.options(tmp_path))
    batch, found = local_training.batch(made, 2), []
    for _ in range(2):
        made.network.zero_grad()
        made.loss(batch, draws.Draws(0, [0, 1]))[0].mean().backward()
        found.append([weight.grad.clone() for weight in made.network.parameters()])
        made.base.unet.enable_gradient_checkpointing()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_mixed_precision_is_near(tmp_path):
    """As the loop does it: the frozen UNet in 16 bits, everything else under autocast. Edges stay in 32."""
    made = local_training.task(local_training.base(), local_training.options(tmp_path))
    batch = local_training.batch(made)
    wanted = made.loss(batch, draws.Draws(0, range(4)))[0]
    made.base.unet.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        losses, told = made.loss(batch, draws.Draws(0, range(4)))
    assert losses.dtype == told["edge_loss"].dtype == torch.float32
    torch.testing.assert_close(losses, wanted, atol=0, rtol=0.05)
    losses.mean().backward()
    assert all(weight.grad.isfinite().all() for weight in made.network.parameters())


def test_nothing_is_added_outside_and_the_hint_ends_with_its_halo(tmp_path, monkeypatch):
    made = local_training.task(local_training.base(), local_training.options(tmp_path, "--mask_mode", "both"))
    batch, drawn = local_training.batch(made), draws.Draws(0, range(4))
    region = torch.zeros(4, 64, 64)
    region[1, 8:24, 16:48], region[2], region[3, :, 40:] = 1, 1, 0.5
    seen = []
    made.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    features = made._features(batch, region, drawn)
    plain = made.network(batch["hint"] / 255)
    for level, one in enumerate(features):
        stride = 64 // one.shape[-1]
        covered = F.avg_pool2d(region[:, None], stride)
        assert not one[(covered == 0).expand_as(one)].any()
        torch.testing.assert_close(one[2], plain[level][2])
    given, shown = batch["hint"] / 255, seen[0]
    assert not shown[0].any() and torch.equal(shown[2], given[2])
    assert torch.equal(shown[1][:, 8:24, 16:48], given[1][:, 8:24, 16:48])
    # with features alone the network sees all of it, with the hint alone it acts everywhere
    assert torch.equal(made._features(batch, region, drawn, "features")[0][2], plain[0][2])
    assert torch.equal(seen[-1], given)
    assert made._features(batch, region, drawn, "hint")[0][0].any()
    # where nothing is controlled, the base's own output is the loss, and there is nothing to preserve
    monkeypatch.setattr(made, "_region", lambda *_: torch.zeros(4, 64, 64))
    _, told = made.loss(batch, draws.Draws(0, range(4)))
    assert told["edge_loss"] == 0 and told["outside_loss"] < 1e-10


@pytest.fixture
def loaded(host, tmp_path, monkeypatch):
    """-> function (file) -> what Load T2I-Adapter makes of it."""
    import folder_paths

    from limelight.nodes.local_control_load import LimelightAdapterLoader

    folders = [*folder_paths.folder_names_and_paths["controlnet"][0], str(tmp_path)]
    known = folder_paths.folder_names_and_paths["controlnet"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "controlnet", (folders, *known[1:]))

    def load(file):
        with torch.inference_mode():
            return LimelightAdapterLoader.execute(str(file.relative_to(tmp_path))).result[0]

    return load


@pytest.mark.parametrize(
    ("kind", "more"),
    [("SD1", ()), ("SD2", ("--adapter_type", "light", "--mask_mode", "features")), ("SDXL", ("--hint_channels", "3")),
     ("shapeworld", ("--mask_mode", "hint", "--use_ema", "--ema_decay", "0.5"))],
)  # fmt: skip
def test_what_is_exported_does_in_the_host_what_was_trained(kind, more, tmp_path, loaded, request):
    import comfy.controlnet

    from limelight.nodes.local_control_apply import LimelightControlRegion

    world = kind == "shapeworld"
    base = bases.load(request.getfixturevalue("shapeworld")) if world else local_training.base(kind)
    made, files = local_training.train(base, local_training.options(tmp_path, *more))
    assert [file.name for file in files[1:]] == ["diffusion_pytorch_model.safetensors"]
    batch = local_training.batch(made)
    region = masks.draw(torch.Generator().manual_seed(0), 64, 64, shape="ellipse")[None]
    one = {name: value[:1] for name, value in batch.items()}
    with torch.no_grad():
        if world:  # the exported weights are averages
            made.network.load_state_dict(load_file(files[0]))
        wanted = made._features(one, region, draws.Draws(0, [0]))
        plain = made.network(one["hint"] / 255)
    for file in files:
        with safe_open(file, "pt") as opened:
            about = opened.metadata()
        assert about[adapter_files.MASK_MODE] == made.options.mask_mode and about["limelight.adapter.hint"] == "canny"
        control = loaded(file)
        with torch.inference_mode():
            own = control.network(one["hint"] / 255)
            (regional,) = LimelightControlRegion.execute(control, region).result
        for a, b in zip(own, plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        picture = one["hint"].float().expand(-1, 3, -1, -1) / 255
        added = call(applied(regional, picture), torch.zeros(1, 4, 8, 8))
        injected = sorted(entries(added).items(), key=lambda entry: (entry[0][0] == "middle", entry[0][1]))
        for (_, a), b in zip(injected, wanted, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    if kind in ("SD1", "SDXL"):  # the stock loader knows full adapters of such widths
        stock = comfy.controlnet.load_t2i_adapter(load_file(files[0])).t2i_model
        with torch.inference_mode():
            theirs = levels(stock(one["hint"] / 255))
        for a, b in zip(theirs, plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def levels(residuals):
    """Of what a control or the host's network gives, the finest first."""
    return [value for _, value in sorted(entries(residuals).items())]  # "input" before "middle"


def test_light_adapters_of_published_widths_load_in_the_stock_loader(host, tmp_path):
    import comfy.controlnet

    form = adapters.Form(True, (320, 640, 1280, 1280), 3, 8, 4)
    network = adapters.Adapter(form, torch.nn.Conv2d)
    adapters.write(tmp_path, "light", network, {})
    stock = comfy.controlnet.load_t2i_adapter(load_file(tmp_path / "light.safetensors")).t2i_model
    assert json.loads((tmp_path / "light" / "config.json").read_text())["adapter_type"] == "light_adapter"
    with torch.inference_mode():
        theirs = levels(stock(hint(64)))
        for a, b in zip(theirs, network(hint(64)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_region_left_on_auto_is_put_where_the_training_had_it(loaded, tmp_path):
    from limelight.nodes.local_control_apply import LimelightControlRegion

    def where(about, **given):
        save_file(light(), tmp_path / "a.safetensors", about)
        with torch.inference_mode():
            return LimelightControlRegion.execute(loaded(tmp_path / "a.safetensors"), torch.ones(1, 8, 8), **given)[0]

    said = {adapter_files.MASK_MODE: "features"}
    assert where(said).region.where == "features" and where(said, mask_on="hint").region.where == "hint"
    for silent in (None, {adapter_files.MASK_MODE: "none"}, {adapter_files.MASK_MODE: "\n nonsense"}):
        assert where(silent).region.where == "both"


def test_training_starts_from_a_file_of_any_layout(tmp_path):
    base = local_training.base()
    given = local_training.options(tmp_path, "--adapter_type", "full")
    first, files = local_training.train(base, given)
    for path in (files[0], files[1], files[1].parent):
        network = adapters.build(base, first.network.form, path)
        for a, b in zip(network.state_dict().values(), first.network.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert all(weight.requires_grad for weight in network.parameters())
    with pytest.raises(LimelightError, match=r"--adapter_model_name.*1 channels, not of 3.*--hint_channels 1"):
        adapters.build(base, adapters.form_for(base, hint_channels=3), files[0])
    xl = local_training.base("SDXL")
    with pytest.raises(LimelightError, match=r"levels of .*32 at 1/8.*takes.*32 at 1/16.*for SDXL"):
        adapters.build(xl, adapters.form_for(xl), files[0])
    with pytest.raises(LimelightError, match="no light adapters for SDXL"):
        adapters.form_for(xl, "light")
    base.unet.register_to_config(in_channels=9)
    with pytest.raises(LimelightError, match=r"9 input channels; expected 4.*text-to-image"):
        adapters.form_for(base)
    with pytest.raises(LimelightError, match="found no weights"):
        adapters.build(base, first.network.form, tmp_path / "missing.safetensors")


def test_mistakes_are_told_before_the_first_step(tmp_path, capsys, shapeworld):
    for wrong, reason in (
        (("--regions", "full"), "leaves nothing outside"),
        (("--regions", "bbox", "--sample_masks"), "expected --regions curriculum"),
        (("--edge_loss_weight", "-1"), "0 or more"),
    ):
        with pytest.raises(SystemExit):
            local_training.options(tmp_path, *wrong)
        assert reason in capsys.readouterr().err
    data = tmp_path / "data"
    data.mkdir()
    local_training.scenes(1)[0]["image"].save(data / "a.png")
    (data / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}')
    argv = ["--pretrained_model_name_or_path", str(shapeworld), "--train_data_dir", str(data)]
    with pytest.raises(StepFailed, match="'hint' is missing.*hint_file_name"):
        trainer.main([*argv, "--output_dir", str(tmp_path / "out"), "--resolution", "64"])
    assert not (tmp_path / "out").exists()


def test_an_ordinary_adapter_and_its_sheet(shapeworld, tmp_path):
    """The preset global has no regions; its sheet shows it with the hint masked."""
    given = local_training.options(
        tmp_path, "--preset", "global", "--validation_steps", "2", "--num_validation_images", "1"
    )
    made, files = local_training.train(bases.load(shapeworld), given)
    from PIL import Image

    sheet = Image.open(next((tmp_path / "validation").iterdir()))
    assert sheet.size == (4 * 64, 64)  # hint, region, without, with
    last = [line for line in log.read(tmp_path) if "outside_change" in line][-1]
    assert last["step"] == 2 and last["outside_change"] > 0
    assert adapter_files.mask_mode(files[0]) is None


def test_masks_of_the_data_are_used_now_and_then(tmp_path, monkeypatch):
    given = local_training.options(tmp_path, "--sample_masks")
    made = local_training.task(local_training.base(), given)
    assert made.images == ("hint", "mask")
    sample = local_training.scenes(1)[0]
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 5:25] = 255
    from PIL import Image

    views = made.views(sample | {"mask": Image.fromarray(mask)}, None)
    assert len(views) == 2 and np.array_equal(views[0]["mask"], mask)
    assert np.array_equal(views[1]["mask"], mask[:, ::-1]) and views[1]["hint"].shape == (64, 64, 1)
    row = made.encode(views)[0]
    monkeypatch.setattr(masks, "OWN", 1.0)
    monkeypatch.setattr(masks, "SOFT", 0.0)
    batch = {name: value[None].expand(40, *value.shape) for name, value in row.items()}
    regions = made._region(batch, draws.Draws(0, range(40)))
    own = (regions == torch.from_numpy(mask) / 255).flatten(1).all(1)
    assert 0.7 < own.float().mean() < 1
