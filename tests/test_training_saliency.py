"""The trainer of saliency ControlNets: two steps on every kind of base, its files in the host, its options and data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from training_data import HEADS, reader, saliency_options, scenes, tiny_base, train_saliency, write_scenes

from limelight.guidance.errors import LimelightError
from limelight.models import controlnet_files
from limelight.training import checkpoints, control, log, noise, saliency_loss
from limelight.training.base import KINDS, SDXL
from limelight.training.draws import Draws
from limelight.training.train_saliency_controlnet import SaliencyControlNet

FEW = ("--max_train_steps", "2", "--learning_rate", "1e-2")


@pytest.fixture(scope="module")
def samples():
    return scenes(4, side=64)


@pytest.mark.parametrize("kind", KINDS)
def test_what_two_steps_export_is_in_the_host_what_it_is_in_diffusers(kind, samples, host, tmp_path):
    import comfy.controlnet
    from diffusers import ControlNetModel

    base = tiny_base(kind)
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    task, files = train_saliency(base, saliency_options(tmp_path, *FEW), reader(samples))
    assert all(torch.equal(value, before[name]) for name, value in base.unet.state_dict().items())
    trained = ControlNetModel.from_pretrained(files[1].parent).eval()
    loaded = comfy.controlnet.load_controlnet(str(files[0])).control_model.float().eval()

    x, t, hint = torch.randn(2, 4, 8, 6), torch.tensor([500, 20]), torch.rand(2, 3, 64, 48)
    batch = {**base.encode_text(["a red circle", ""]), "moments": torch.zeros(2, 8, 8, 6)}
    told = base.conditioning(batch)
    with torch.inference_mode():
        down, middle = trained(x, t, controlnet_cond=hint, return_dict=False, **told)
        y = None
        if kind == SDXL:
            added = told["added_cond_kwargs"]
            times = trained.add_time_proj(added["time_ids"].flatten()).reshape(2, -1)
            y = torch.cat([added["text_embeds"], times], -1)
        out = loaded(x=x, hint=hint, timesteps=t, context=told["encoder_hidden_states"], y=y)
    for ours, theirs in zip((*down, middle), (*out["output"], *out["middle"]), strict=True):
        assert float(ours.abs().max()) > 1e-4
        torch.testing.assert_close(theirs.float(), ours, atol=1e-5, rtol=1e-5)
    assert not controlnet_files.missing(load_file(files[0]))
    with safe_open(files[0], "pt") as file:
        about = file.metadata()
    assert about["limelight.kind"] == "saliency ControlNet" and about["limelight.base"] == kind
    assert about["limelight.hint"].startswith("saliency map") and about["limelight.revision"]


def test_training_starts_from_the_bases_encoder_and_only_the_network_has_a_graph(samples, tmp_path):
    base = tiny_base()
    task = SaliencyControlNet(base, saliency_options(tmp_path, "--gradient_checkpointing"))
    for name, value in base.unet.state_dict().items():
        if name.startswith(("conv_in", "time_embedding", "down_blocks", "mid_block")):
            assert torch.equal(task.network.state_dict()[name], value)
    for part in (task.network, base.unet):
        part.enable_gradient_checkpointing()
    seen = {}
    for name in ("down_blocks", "mid_block", "up_blocks"):
        module = getattr(base.unet, name)
        module = module[0] if isinstance(module, torch.nn.ModuleList) else module

        def note(_, __, output, name=name):
            seen[name] = (output[0] if isinstance(output, tuple) else output).requires_grad

        module.register_forward_hook(note)
    with torch.no_grad():
        rows = task.encode(task.views(samples[0], np.random.default_rng(0)))
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    losses, _ = task.loss({**batch, **base.encode_text([""] * len(rows))}, Draws(0, range(len(rows))))
    losses.mean().backward()
    assert seen == {"down_blocks": False, "mid_block": False, "up_blocks": True}
    assert not any(one.grad is not None for one in base.unet.parameters())
    # at the start all but the last layers, which are zero, are without a gradient of their own
    assert task.network.controlnet_mid_block.weight.grad.any()


def test_gradient_checkpointing_changes_nothing(samples, tmp_path):
    weights = []
    for more in ((), ("--gradient_checkpointing",)):
        options = saliency_options(tmp_path / str(len(more)), *FEW, *more)
        task, _ = train_saliency(tiny_base(), options, reader(samples))
        weights.append(task.network.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("prediction", noise.PREDICTIONS[:2])
def test_every_option_of_the_hint_at_once(prediction, samples, tmp_path):
    more = ("--hint", "channels", "--gaussian_maps", "0.5", "--saliency_loss_weight", "0.1", "--snr_gamma", "5")
    more += (
        "--validation_inference_steps",
        "3",
        "--use_ema",
        "--gradient_accumulation_steps",
        "2",
        "--mixed_precision",
        "bf16",
        "--validation_steps",
        "2",
    )
    more += ("--export_dtype", "float16")
    options = saliency_options(tmp_path, *FEW, *more, "--num_validation_images", "2", "--log_steps", "3")
    _, files = train_saliency(tiny_base(prediction=prediction), options, reader(samples))
    lines = log.read(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 2] and "saliency_cc" in lines[-1]
    assert all(np.isfinite(list(line.values())).all() for line in lines) and "saliency_loss" in lines[0]
    assert Image.open(tmp_path / "validation" / "step-00000002.png").size == (3 * 64, 2 * 64)
    with safe_open(files[0], "pt") as file:
        assert file.metadata()["limelight.hint"].startswith("red: attract")
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


def test_the_consistency_loss_pulls_attention_to_the_map():
    from limelight.models.signature_saliency import SignatureSaliency

    base = tiny_base()
    eye = SignatureSaliency()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maps = torch.zeros(2, 1, 64, 64)
    maps[0, :, :32, :32] = maps[1, :, 32:, 32:] = 1
    optimiser, values = torch.optim.Adam([latents], 0.1), []
    for _ in range(12):
        optimiser.zero_grad()
        each = saliency_loss.divergence(base, eye, latents, maps)
        each.sum().backward()
        optimiser.step()
        values.append(each.detach())
    assert (values[0] > 0).all() and (values[-1] < values[0]).all()
    numbers, weights = saliency_loss.chosen(base, torch.tensor([999, 0, 700, 100]))
    assert numbers.tolist() == [1, 3] and weights[0] > weights[1] > 0


def test_flips_jitter_and_blobs_follow_the_draws_and_leave_the_preset_alone(samples, tmp_path):
    given = {"moments": torch.zeros(4, 8, 8, 8)}
    task = SaliencyControlNet(tiny_base(), saliency_options(tmp_path))
    rows = [task.encode(task.views(one, np.random.default_rng(0))) for one in samples]
    assert all(torch.equal(both[0]["hint"].flip(-1), both[1]["hint"]) for both in rows)
    given = {name: torch.stack([both[0][name] for both in rows]) for name in rows[0][0]}
    once, again = (task._hint(given, Draws(0, range(4))) for _ in range(2))
    plain = task._hint(given)
    assert torch.equal(once, again) and not torch.equal(once, plain)
    assert torch.equal(plain[:, 0], given["hint"][:, 0] / 255) and torch.equal(plain[:, 0], plain[:, 2])
    published = SaliencyControlNet(tiny_base(), saliency_options(tmp_path, "--preset", "gazefusion"))
    assert torch.equal(published._hint(given, Draws(0, range(4))), plain)
    assert len(published.views(samples[0], np.random.default_rng(0))) == 1


def test_weights_to_start_from(samples, tmp_path):
    base = tiny_base()
    _, files = train_saliency(base, saliency_options(tmp_path / "a", *FEW), reader(samples))
    state = load_file(files[1])
    for start in (files[0], files[1].parent):
        network = control.build(base, start)
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    with pytest.raises(LimelightError, match="is not a ControlNet for this base model.*do not fit"):
        control.build(tiny_base("SDXL"), files[0])
    with pytest.raises(LimelightError, match="found no weights at"):
        control.build(base, tmp_path / "nothing.safetensors")


def test_heads_as_the_host_takes_them(tmp_path):
    base = tiny_base()
    heads = base.unet.config.attention_head_dim
    network = control.build(base, head_channels=HEADS // 2)
    attention = network.down_blocks[1].attentions[0].transformer_blocks[0].attn1
    assert attention.heads == 4 and base.unet.config.attention_head_dim == heads
    with pytest.raises(LimelightError, match="--head_channels: found 48"):
        control.build(base, head_channels=48)


def test_broken_samples_are_told_and_training_goes_on(tmp_path, capsys):
    from limelight.training import run

    folder = write_scenes(tmp_path / "data", 6, side=64)
    (folder / "001.png").write_bytes(b"no picture")
    (folder / "002.saliency.png").unlink()
    Image.new("L", (64, 32)).save(folder / "003.saliency.png")
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines[4]["text"] = "  "
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = saliency_options(tmp_path / "out", data=str(folder))
    base = tiny_base()
    files = run.train(SaliencyControlNet(base, options), base, options)
    told = capsys.readouterr()
    told = told.out + told.err
    assert len(files) == 2 and "2 samples" in told
    for name in ("001.png", "002", "003", "004.png"):
        assert name in told
    assert "4 left out" in told


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--resolution", "100"), "--resolution: found 100; expected .* multiples of 64"),
        (("--train_batch_size", "0"), "--train_batch_size: found 0; expected 1 or more"),
        (("--proportion_empty_prompts", "2"), "expected a share from 0 to 1"),
        (("--learning_rate", "0"), "expected more than 0"),
        (("--amplitude_jitter", "1.5"), "expected a number from 0 to 1"),
        (("--use_8bit_adam",), "bitsandbytes is not installed"),
    ],
)
def test_wrong_options(more, words, tmp_path, capsys, monkeypatch):
    import importlib.util
    import re

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(SystemExit):
        saliency_options(tmp_path, *more)
    assert re.search(words, capsys.readouterr().err)


def test_data_without_maps_is_an_error_before_anything_is_encoded(tmp_path):
    from limelight.training import run

    folder = write_scenes(tmp_path / "data", 2, side=64)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for line in lines:
        del line["saliency_file_name"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = saliency_options(tmp_path / "out", data=str(folder))
    base = tiny_base()
    with pytest.raises(LimelightError, match="column 'saliency' is missing"):
        run.train(SaliencyControlNet(base, options), base, options)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_checkpoints_is_not_trained_over(samples, tmp_path):
    train_saliency(tiny_base(), saliency_options(tmp_path), reader(samples))
    with pytest.raises(LimelightError, match="has a training's checkpoints already .*--resume_from_checkpoint latest"):
        train_saliency(tiny_base(), saliency_options(tmp_path), reader(samples))
    options = saliency_options(tmp_path, "--resume_from_checkpoint", "latest", "--train_batch_size", "4")
    with pytest.raises(LimelightError, match="samples_a_step 2; now it is 4"):
        train_saliency(tiny_base(), options, reader(samples))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--learning_rate", "1e30"), "step 2: the loss is not a finite number. Lower --learning_rate"),
        (("--mixed_precision", "fp16"), "--mixed_precision: fp16.*GPU"),
        (("--resolution", "128"), "has no sample that can be used"),
        (("--resume_from_checkpoint", "checkpoint-00000007"), "no complete checkpoint.*Complete ones in .*: none"),
    ],
)
def test_what_stops_a_training(more, words, samples, tmp_path):
    if torch.cuda.is_available() and "fp16" in more:
        pytest.skip("this machine can")
    with pytest.raises(LimelightError, match=words):
        train_saliency(tiny_base(), saliency_options(tmp_path, *more), reader(samples))
    assert not checkpoints.complete(tmp_path)
