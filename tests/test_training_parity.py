"""The published recipe of saliency ControlNets beside a plain loop on diffusers' own classes, written for this test."""

from __future__ import annotations

import numpy as np
import torch
from training_data import reader, saliency_options, scenes, train_saliency, write_shapeworld

from limelight.training import base, log
from limelight.training.draws import Draws, place

STEPS, BATCH, SEED = 50, 1, 123


def plain_loop(folder, samples, network) -> list[float]:
    """GazeFusion's training as its report tells it: eps-MSE under a map in three channels, AdamW at 1e-5, no more."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    unet = UNet2DConditionModel.from_pretrained(folder / "unet").requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(folder / "vae").requires_grad_(False)
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    losses = []
    for step in range(STEPS):
        rows = [samples[place(SEED, step * BATCH + i, len(samples))] for i in range(BATCH)]
        pixels = np.stack([np.asarray(row["image"]) for row in rows]).transpose(0, 3, 1, 2)
        hints = np.stack([np.repeat(np.asarray(row["saliency"])[None], 3, 0) for row in rows])
        ids = tokenizer(
            [row["text"] for row in rows], padding="max_length", max_length=77, return_tensors="pt"
        ).input_ids
        posterior = vae.encode(torch.from_numpy(pixels) / 127.5 - 1).latent_dist
        # the draws: the posterior's, the noise, the time
        numbers = Draws(SEED, range(step * BATCH, (step + 1) * BATCH))
        shape = posterior.mean.shape[1:]
        latents = (posterior.mean + posterior.std * numbers.normal(*shape)) * vae.config.scaling_factor
        noise = numbers.normal(*shape)
        times = (numbers.uniform() * 1000).long()
        noisy = scheduler.add_noise(latents, noise, times)
        context = encoder(ids).last_hidden_state
        down, middle = network(noisy, times, context, torch.from_numpy(hints) / 255, return_dict=False)
        output = unet(
            noisy, times, context, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        loss = torch.nn.functional.mse_loss(output, noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def test_the_published_recipe_is_a_plain_loop(tmp_path):
    from diffusers import ControlNetModel

    folder = write_shapeworld(tmp_path / "base")
    samples = scenes(6, side=64)
    loaded = base.load(folder)
    options = saliency_options(
        tmp_path / "run", "--preset", "gazefusion", "--resolution", "64", "--max_train_steps", str(STEPS),
        "--train_batch_size", str(BATCH), "--validation_steps", "0", "--log_steps", "20",
    )  # fmt: skip
    assert (options.learning_rate, options.seed, options.max_grad_norm) == (1e-5, SEED, 0)
    task, _ = train_saliency(loaded, options, reader(samples))
    lines = log.read(tmp_path / "run")
    torch.manual_seed(SEED)
    network = ControlNetModel.from_unet(loaded.unet)
    wanted = plain_loop(folder, samples, network)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    np.testing.assert_allclose([line["loss"] for line in lines], wanted, atol=1e-4, rtol=0)
    state = network.state_dict()
    moved = max(float((value - state[name]).abs().max()) for name, value in task.network.state_dict().items())
    assert moved < 1e-4 and float(state["controlnet_mid_block.weight"].abs().max()) > 1e-4


def test_the_published_settings():
    options = saliency_options("out", "--preset", "gazefusion")
    published = {"learning_rate": 1e-5, "lr_scheduler": "constant", "adam_weight_decay": 1e-2, "hint": "grey"}
    published |= {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "proportion_empty_prompts": 0}
    published |= {
        "use_ema": False,
        "random_flip": False,
        "mixed_precision": "no",
        "gaussian_maps": 0,
        "snr_gamma": None,
    }
    published |= {"checkpointing_steps": 5000, "checkpoints_total_limit": 1, "validation_scale": 9, "max_grad_norm": 0}
    assert {name: getattr(options, name) for name in published} == published
    from limelight.training.train_saliency_controlnet import PRESETS

    recipe = PRESETS["gazefusion"]
    assert (recipe["train_batch_size"], recipe["max_train_steps"], recipe["resolution"]) == (16, 500_000, [512])
