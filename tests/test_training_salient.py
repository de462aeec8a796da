"""The trainers of salient-object ControlNets: crops and polarities, a plain loop of diffusers, files in the host."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors import safe_open
from training_data import reader, scenes, tiny_base, write_scenes, write_shapeworld

from limelight.guidance.errors import LimelightError
from limelight.training import control, log, run, salient
from limelight.training.base import KINDS, SD2, SDXL, load
from limelight.training.draws import Draws, array_generator, place
from limelight.training.train_salient_controlnet import SalientControlNet
from limelight.training.train_salient_controlnet import arguments as text_arguments
from limelight.training.train_salient_inpaint_controlnet import SalientInpaintControlNet
from limelight.training.train_salient_inpaint_controlnet import arguments as inpaint_arguments

TRAINERS = {"inpaint": (SalientInpaintControlNet, inpaint_arguments), "text": (SalientControlNet, text_arguments)}
SEED, BATCH, RATE = 7, 2, 1e-4


def options(which, output, *more, data="in memory"):
    given = ["--pretrained_model_name_or_path", "in memory", "--train_data_dir", str(data), "--output_dir", str(output)]
    given += ["--resolution", "64", "--train_batch_size", str(BATCH), "--validation_steps", "0"]
    return TRAINERS[which][1]([*given, "--max_train_steps", "2", "--log_steps", "1", *more])


def trained(which, base, given, samples):
    AcceleratorState._reset_state(True)  # of a training before, which may have had another precision
    task = TRAINERS[which][0](base, given)
    return task, run.train(task, base, given, reader(samples))


def inpainting(kind="SD1"):
    """`tiny_base` with a UNet of nine channels."""
    from diffusers import UNet2DConditionModel

    base = tiny_base(kind)
    config = {name: value for name, value in base.unet.config.items() if not name.startswith("_")}
    base.unet = UNet2DConditionModel(**{**config, "in_channels": 9}).eval().requires_grad_(False)
    return base


@pytest.fixture(scope="module")
def samples():
    return scenes(5, side=128)


@pytest.fixture(scope="module")
def shapeworld(tmp_path_factory):
    """The base model for inpainting."""
    return load(write_shapeworld(tmp_path_factory.mktemp("base"), inpaint=True))


# shapeworld's latents have no variance, those of random networks have
@pytest.mark.parametrize(("which", "small", "steps"), [("inpaint", False, 50), ("inpaint", True, 5), ("text", True, 5)])
def test_the_published_recipe_is_a_plain_loop_of_diffusers(which, small, steps, shapeworld, samples, tmp_path):
    base = shapeworld if not small else inpainting() if which == "inpaint" else tiny_base()
    more = ("--preset", "yahoo", "--resolution", "64", "--learning_rate", str(RATE), "--seed", str(SEED))
    given = options(which, tmp_path, *more, "--max_train_steps", str(steps), "--proportion_empty_prompts", "0.3")
    task, _ = trained(which, base, given, samples)
    found = [line["loss"] for line in log.read(tmp_path)]
    wanted, network = plain_loop(which, base, task, samples, steps)
    assert len(found) == steps
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)
    start = flat(control.build(base, seed=SEED, channels=base.unet.config.in_channels))
    found, wanted = flat(task.network), flat(network)
    assert (found - wanted).norm() < 0.1 * (wanted - start).norm()


def flat(network):
    return torch.cat([one.detach().flatten() for one in network.parameters()])


def plain_loop(which, base, task, samples, steps):
    """-> losses, the ControlNet. Of ours it takes the crops and the random numbers."""
    from diffusers import ControlNetModel, DDPMScheduler

    torch.manual_seed(SEED)
    network = ControlNetModel.from_unet(base.unet)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.999), weight_decay=1e-2, fused=True)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    crops = {one["key"]: task.views(one, array_generator(SEED, one["key"])) for one in samples}
    encoder, tokenizer = base.text_encoders[0], base.tokenizers[0]
    losses = []
    for step in range(steps):
        numbers = range(step * BATCH, (step + 1) * BATCH)
        draws = Draws(SEED, numbers)
        chosen, captions = [], []
        for n in numbers:
            sample = samples[place(SEED, n, len(samples))]
            view, dropped = Draws(SEED, [n], purpose="view").uniform(2)[0].tolist()
            chosen.append(crops[sample["key"]][int(view * 4)])
            captions.append("" if dropped < 0.3 else sample["text"])
        image = torch.stack([torch.tensor(one["image"].copy()).movedim(-1, 0) for one in chosen]) / 127.5 - 1
        white = torch.stack([torch.tensor(one["mask"].copy())[None] for one in chosen]) / 255  # the object
        with torch.no_grad():
            ids = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
            context = encoder(ids.input_ids)[0]
            latents = sampled(base.vae, image, draws)
            if which == "inpaint":
                hint = 1 - white.expand(-1, 3, -1, -1)
                mask = (hint[:, :1] >= 0.5).float()
                kept = torch.cat(
                    [F.interpolate(mask, scale_factor=1 / 8), sampled(base.vae, image * (mask < 0.5), draws)], 1
                )
            else:
                picture = (image + 1) / 2
                hint = (255 * (white * picture + (1 - white) * white)).round() / 255 * 2 - 1
                kept = latents[:, :0]
            noise = draws.normal(*latents.shape[1:])
            t = (draws.uniform() * 1000).long()
            inputs = torch.cat([scheduler.add_noise(latents, noise, t), kept], 1)
        down, middle = network(inputs, t, context, hint, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        loss = F.mse_loss(base.unet(inputs, t, context, **residuals).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, network


def sampled(vae, image, draws):
    found = vae.encode(image).latent_dist
    return (found.mean + found.std * draws.normal(*found.mean.shape[1:])) * vae.config.scaling_factor


@pytest.mark.parametrize("which", TRAINERS)
def test_the_sheet_has_the_object_and_an_inpainting_model_keeps_it(which, shapeworld, samples, tmp_path):
    more = ("--resolution", "128", "--validation_steps", "1", "--num_validation_images", "1", "--max_train_steps", "1")
    more += ("--validation_inference_steps", "6", "--validation_scale", "4")
    given = options(which, tmp_path, *more)
    trained(which, shapeworld if which == "inpaint" else tiny_base(), given, samples)
    (error,) = [line["object_error"] for line in log.read(tmp_path) if "object_error" in line]
    assert (error < 0.08) == (which == "inpaint"), error
    sheet = Image.open(tmp_path / "validation" / "step-00000001.png")
    assert sheet.size == (3 * 128, 128)
    shown = np.asarray(sheet)[:128, :128]
    assert set(shown[np.asarray(samples[0]["mask"]) == 0].flat) <= {127, 128}


@pytest.mark.parametrize(("which", "kind"), [*(("inpaint", kind) for kind in KINDS), ("text", SD2)])
def test_what_two_steps_export_is_in_the_host_what_it_is_in_diffusers(which, kind, samples, host, tmp_path):
    from diffusers import ControlNetModel

    from limelight.models import inpaint_files
    from limelight.models.inpaint_controlnet import InpaintControlNet

    base = inpainting(kind) if which == "inpaint" else tiny_base(kind)
    more = ("--learning_rate", "1e-2", "--border_weight", "3", "--snr_gamma", "5")
    more += ("--mixed_precision", "bf16", "--gradient_checkpointing") if kind == SDXL else ()
    _, files = trained(which, base, options(which, tmp_path, *more), samples)
    network = ControlNetModel.from_pretrained(files[1].parent).eval()
    assert network.config.in_channels == base.unet.config.in_channels
    x, t = torch.randn(2, network.config.in_channels, 8, 6), torch.tensor([500, 20])
    hint = torch.rand(2, 3, 64, 48)
    told = base.conditioning({**base.encode_text(["a red circle", ""]), "moments": torch.zeros(2, 8, 8, 6)})
    y = None
    with torch.inference_mode():
        down, middle = network(x, t, controlnet_cond=hint, return_dict=False, **told)
        if kind == SDXL:
            times = network.add_time_proj(told["added_cond_kwargs"]["time_ids"].flatten()).reshape(2, -1)
            y = torch.cat([told["added_cond_kwargs"]["text_embeds"], times], -1)
        # of four channels and unknown size the host reads its own layout only
        for file in files if which == "inpaint" else files[:1]:
            loaded = inpaint_files.load_control_net(file, "control_net_name")
            assert isinstance(loaded, InpaintControlNet) == (which == "inpaint")
            host_net = loaded.control_model.float().eval()
            out = host_net(x=x, hint=hint, timesteps=t, context=told["encoder_hidden_states"], y=y)
            for ours, theirs in zip((*down, middle), (*out["output"], *out["middle"]), strict=True):
                assert float(ours.abs().max()) > 1e-4
                torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    with safe_open(files[0], "pt") as file:
        assert file.metadata()["limelight.kind"].startswith("salient-object") and "limelight.hint" in file.metadata()


@pytest.mark.parametrize(
    ("which", "base", "words"),
    [
        ("inpaint", tiny_base, "no inpainting model: its UNet has 4 input channels; expected 9: .* Choose an inpaint"),
        ("text", inpainting, "an inpainting model: its UNet has 9 input channels; expected 4. Choose the text"),
    ],
)
def test_the_wrong_kind_of_base(which, base, words, tmp_path):
    with pytest.raises(LimelightError, match=f"--pretrained_model_name_or_path: tiny SD1 is {words}"):
        TRAINERS[which][0](base(), options(which, tmp_path))


def disc(width, height, x, y, radius):
    rows, columns = np.mgrid[:height, :width]
    inside = np.hypot(columns - x, rows - y) < radius
    image = np.stack([columns % 256, rows % 256, inside * 255], -1).astype(np.uint8)
    picture, mask = (Image.fromarray(one) for one in (image, (inside * 255).astype(np.uint8)))
    return {"key": "disc.png", "text": "a disc", "image": picture, "mask": mask}


def test_published_crops_are_anywhere_and_ours_keep_the_object(tmp_path):
    wide = disc(300, 100, 260, 50, 20)
    published = TRAINERS["inpaint"][0](
        inpainting(), options("inpaint", tmp_path, "--preset", "yahoo", "--resolution", "64")
    )
    views = [view for key in range(30) for view in published.views(wide, array_generator(0, str(key)))]
    assert len(views) == 30 * 4 and {view["image"].shape for view in views} == {(64, 64, 3)}
    shares = [(view["mask"] > 127).mean() * 64 * 64 / (np.pi * (20 * 0.96) ** 2) for view in views]
    assert min(shares) == 0 and 0.97 < max(shares) < 1.03  # short side 96, crops of 64
    more = ("--resolution", "128", "64", "--crops", "3", "--zoom", "2")
    ours = TRAINERS["inpaint"][0](inpainting(), options("inpaint", tmp_path, *more))
    views = ours.views(wide, np.random.default_rng(0))
    assert len(views) == 6 and views[0]["image"].shape == (64, 128, 3)
    for plain, mirrored in zip(views[::2], views[1::2], strict=True):
        assert np.array_equal(plain["image"][:, ::-1], mirrored["image"])
        assert np.array_equal(plain["mask"] > 127, plain["image"][..., 2] > 127)
        assert (plain["mask"] > 127).sum() >= 0.88 * np.pi * (20 * 1.28) ** 2
    same = disc(128, 64, 60, 30, 20)  # as it is
    view = salient.crop(same["image"], same["mask"], (128, 64), 1.0, 0.9, np.random.default_rng(0))
    assert np.array_equal(view["image"], np.asarray(same["image"]))
    bar = Image.fromarray(np.pad(np.full((10, 300), 255, np.uint8), ((45, 45), (0, 0))))
    with pytest.raises(LimelightError, match="object does not fit: the best crop has 33% of it, see --keep"):
        salient.crop(wide["image"], bar, (64, 64), 1.5, 0.9, np.random.default_rng(0))


def test_polarities(tmp_path):
    sample = disc(64, 64, 31.5, 31.5, 16)
    mask = np.asarray(sample["mask"]).copy()
    mask[0, :8], mask[8, :8] = 128, 127  # soft: of the object, and not any more
    sample["mask"] = Image.fromarray(mask)
    base = inpainting()
    task = SalientInpaintControlNet(base, options("inpaint", tmp_path, "--no-random_flip"))
    (row,) = task.encode(task.views(sample, np.random.default_rng(0)))
    batch = {name: value[None] for name, value in row.items()}
    assert torch.equal(task.hint(batch)[0, 1], 1 - torch.tensor(mask) / 255)
    beside = task.beside(batch, None)
    assert beside.shape == (1, 5, 8, 8) and set(beside[0, 0].unique().tolist()) == {0.0, 1.0}
    assert beside[0, 0, 4, 4] == 0 and beside[0, 0, 0, 0] == 0 and beside[0, 0, 1, 0] == 1
    pixels = (torch.tensor(np.array(sample["image"])) / 127.5 - 1).movedim(-1, 0)[None] * torch.tensor(mask > 127)
    wanted = base.vae.encode(pixels).latent_dist.mean * base.vae.config.scaling_factor
    torch.testing.assert_close(beside[:, 1:], wanted, atol=5e-4, rtol=0)
    assert wanted.abs().max() > 0.05

    for hint, dark in (("black", 0.0), ("published", -1.0)):
        task = SalientControlNet(tiny_base(), options("text", tmp_path, "--no-random_flip", "--hint", hint))
        (row,) = task.encode(task.views(sample, np.random.default_rng(0)))
        found = task.hint({name: value[None] for name, value in row.items()})[0]
        assert (found[:, 60, 60] == dark).all()
        assert torch.equal(found[:, 32, 32], torch.tensor([32, 32, 255]) / 255 * (1 - dark) + dark)


def test_border_weights():
    objects = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    objects[0, :, 24:40, 24:40] = 255
    weights = salient.border_weights(objects, (8, 8), 5.0, 1)
    torch.testing.assert_close(weights.mean((1, 2, 3)), torch.ones(2))
    assert (weights[1] == 1).all()
    first = weights[0, 0] / weights[0, 0, 0, 0]
    ring = torch.ones(8, 8)
    ring[2:6, 2:6] = 5
    ring[3:5, 3:5] = 1
    torch.testing.assert_close(first, ring)


def test_masks_that_cannot_be_used_are_told_by_name(tmp_path, capsys):
    folder = write_scenes(tmp_path / "data", 6, side=64)
    Image.new("L", (64, 64), 0).save(folder / "001.mask.png")
    Image.new("L", (64, 64), 255).save(folder / "002.mask.png")
    Image.new("L", (64, 32), 255).save(folder / "003.mask.png")
    Image.open(folder / "004.mask.png").resize((32, 32)).save(folder / "004.mask.png")
    base = inpainting()
    given = options("inpaint", tmp_path / "out", data=folder)
    files = run.train(SalientInpaintControlNet(base, given), base, given)
    told = capsys.readouterr()
    told = told.out + told.err
    assert len(files) == 2 and "3 samples" in told and "3 left out" in told
    for words in ("001.png: empty mask", "002.png: full mask", "003.mask.png): of another aspect"):
        assert words in told
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for line in lines:
        del line["mask_file_name"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = options("inpaint", tmp_path / "second", data=folder)
    with pytest.raises(LimelightError, match="column 'mask' is missing"):
        run.train(SalientInpaintControlNet(base, given), base, given)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("zoom", "0.5", "1 or more"), ("keep", "1.5", "0 to 1"), ("border_weight", "0", "more than 0")],
)
def test_wrong_options(name, value, words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        options("inpaint", tmp_path, f"--{name}", value)
    assert f"--{name}: found {value}; expected {words}" in capsys.readouterr().err
