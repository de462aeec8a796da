"""The published recipe of local adapters, beside a plain loop of diffusers that was written from its description."""

from __future__ import annotations

import copy

import local_training
import numpy as np
import torch
import torch.nn.functional as F
from training_data import write_shapeworld

from limelight.models import adapter_files
from limelight.training import base as bases
from limelight.training import draws, log, masks

STEPS = 50


def test_the_published_recipe_is_a_plain_loop(tmp_path):
    """Losses and weights of 50 steps, of the same random numbers."""
    shapeworld = write_shapeworld(tmp_path / "base")
    given = local_training.options(
        tmp_path / "run", "--preset", "paper", "--max_train_steps", str(STEPS), "--lr_warmup_steps", "5"
    )
    task = local_training.task(bases.load(shapeworld), given)
    start = adapter_files.diffusers_names(copy.deepcopy(task.network))
    scenes = local_training.scenes(5)
    trained, _ = local_training.train(bases.load(shapeworld), given, scenes)
    found = [line["loss"] for line in log.read(tmp_path / "run")]
    losses, state = plain_loop(shapeworld, *start, scenes, given)
    assert len(found) == STEPS and np.abs(np.array(found) - losses).max() < 1e-4
    for name, value in adapter_files.diffusers_names(trained.network)[0].items():
        torch.testing.assert_close(value, state[name], atol=1e-4, rtol=0)
        assert not torch.equal(value, start[0][name])


def plain_loop(folder, start, config, scenes, given):
    """-> losses, and the adapter's state."""
    from diffusers import AutoencoderKL, DDPMScheduler, T2IAdapter, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    unet, vae = (kind.from_pretrained(folder / name) for kind, name in ((UNet2DConditionModel, "unet"),
                                                                       (AutoencoderKL, "vae")))  # fmt: skip
    text, tokenizer = (
        CLIPTextModel.from_pretrained(folder / "text_encoder"),
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    )
    share = DDPMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod
    for part in (unet, vae, text):
        part.requires_grad_(False).eval()
    del config["_class_name"]
    adapter = T2IAdapter(**config)
    adapter.load_state_dict(start)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1.6e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 5))

    def magnitude(z):
        kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
        z = F.pad(z, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
        across, down = F.conv2d(z, kernel[None, None]), F.conv2d(z, kernel.T[None, None])
        return (across**2 + down**2 + 1e-6).sqrt().unflatten(0, (2, -1))[:, :, 0]

    losses = []
    for step in range(STEPS):
        numbers = [2 * step, 2 * step + 1]
        rows = [scenes[draws.place(given.seed, n, len(scenes))] for n in numbers]
        dropped = draws.Draws(given.seed, numbers, purpose="view").uniform(2)[:, 1] < 0.5
        captions = ["" if drop else row["text"] for drop, row in zip(dropped, rows, strict=True)]
        pixels = torch.stack([torch.from_numpy(np.array(row["image"])).float() for row in rows]).permute(0, 3, 1, 2)
        edges = torch.stack([torch.from_numpy(np.array(row["hint"])).float() for row in rows])[:, None] / 255
        drawn = draws.Draws(given.seed, numbers)
        with torch.no_grad():
            ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
            context = text(ids).last_hidden_state
            latent = vae.encode(pixels / 127.5 - 1).latent_dist
            clean = (latent.mean + latent.std * drawn.normal(4, 8, 8)) * vae.config.scaling_factor
        noise = drawn.normal(4, 8, 8)
        t = ((1 - drawn.uniform() ** 3) * 1000).floor().clamp(0, 999).long()
        region = drawn.each(lambda generator, _: masks.published_box(generator, 64, 64))[:, None]
        strong = share[t].sqrt().view(-1, 1, 1, 1), (1 - share[t]).sqrt().view(-1, 1, 1, 1)
        noisy = strong[0] * clean + strong[1] * noise
        features = [f * F.interpolate(region, f.shape[2:]) for f in adapter(edges)]
        output = unet(noisy, t, context, down_intrablock_additional_residuals=features).sample
        believed = (noisy - strong[1] * output) / strong[0]
        off = F.interpolate(region, (8, 8)) * (magnitude(believed) - magnitude(clean))
        loss = F.mse_loss(output, noise) + 0.1 * (off**2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return np.array(losses), adapter.state_dict()
