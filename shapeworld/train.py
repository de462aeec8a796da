"""Train shapeworld from scratch: ``vae``, ``unet`` (text encoder and UNet together), ``decoder``, ``inpaint``,
``transformer``.

    python -m limelight.shapeworld.train vae     --work DIR --steps 5000 --batch 16
    python -m limelight.shapeworld.train unet    --work DIR --steps 3900 --tokenizer HOST/comfy/sd1_tokenizer
    python -m limelight.shapeworld.train decoder --work DIR --steps 500 --batch 8
    python -m limelight.shapeworld.train inpaint --work DIR --steps 1200 --tokenizer HOST/comfy/sd1_tokenizer
    python -m limelight.shapeworld.train transformer --work DIR --steps 5000 --tokenizer HOST/comfy/sd1_tokenizer

``decoder`` sharpens the autoencoder's decoder on whole images; the latents, and so the UNet, stay as they are.
``inpaint`` makes a UNet for inpainting from the UNet (`inpaint`); ``transformer`` trains a diffusion transformer on the
same latents and prompts (`transformer`).
Every stage resumes from ``DIR/<stage>.pt``; asking for more ``--steps`` trains on. CPU or CUDA, bf16 autocast.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .data import DEVICE, autocast, cached_grounding, cached_latents, draw, scenes, to_unit
from .networks import (
    LATENT_SIDE,
    SCALING,
    Vocabulary,
    build_text_encoder,
    build_unet,
    build_vae,
    whiten_latents,
)

# isort: split
# after .networks, which makes torchvision importable
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from transformers import CLIPTextModel

from .descent import (
    COOLDOWN,
    GROUNDING,
    SCHEDULE,
    Resumed,
    descend,
    importance,
    learning_rate,
    set_rate,
)
from .grounding import grounding_loss, record

LATENT_NOISE = 0.1  # of the white latents' standard deviation, when the decoder is sharpened
VALIDATION = (
    "a red circle and a blue bar on a gray background",
    "a green square and a yellow circle on a white background",
    "a blue square and a red bar on a black background",
    "a yellow bar and a green circle on a gray background",
    "a red square, a green bar and a blue circle on a white background",
    "a yellow square on a black background",
    "a blue circle and a red circle on a gray background",
    "a green bar and a blue square on a white background",
)


def train_vae(work: Path, steps: int, batch: int, base_rate: float) -> None:
    vae = build_vae().to(DEVICE)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=base_rate, weight_decay=1e-4, fused=True)
    run = Resumed(work / "vae.pt", vae=vae, optimizer=optimizer)
    rng = np.random.default_rng(run.step)
    pool = to_unit(scenes(rng, 1500)[0])
    for step, bar in run.steps("vae", steps, 500):
        if step % 50 == 49:  # renew a part of the pool, so that no scene is seen often
            pool[rng.integers(0, len(pool), 100)] = to_unit(scenes(rng, 100)[0])
        set_rate(optimizer, learning_rate(base_rate, step, steps))
        # crops are cheap and learn the edges; whole images at the end settle the group statistics
        crop, count = (48, batch) if step < (1 - COOLDOWN) * steps else (pool.shape[-1], max(2, batch // 7))
        corners = rng.integers(0, pool.shape[-1] - crop + 1, (count, 2))
        chosen = rng.integers(0, len(pool), count)
        images = torch.stack(
            [pool[i, :, y : y + crop, x : x + crop] for i, (y, x) in zip(chosen, corners, strict=True)]
        )
        images = images.to(DEVICE)
        with autocast():
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        error = decoded - images
        loss = error.abs().mean() + error.square().mean() + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        descend(loss, vae, optimizer)
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)

    whiten_latents(vae.eval(), to_unit(scenes(np.random.default_rng(1), 256)[0]).to(DEVICE))
    finish_vae(work, vae)


def train_decoder(work: Path, steps: int, batch: int, base_rate: float) -> None:
    """Whole images, and latents with a little noise, as the UNet's are: crops alone leave specks and soft edges."""
    vae = AutoencoderKL.from_pretrained(work / "vae").to(DEVICE).requires_grad_(False)
    trained = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=base_rate, weight_decay=1e-4, fused=True)
    run = Resumed(work / "decoder.pt", decoder=trained, optimizer=optimizer)
    rng = np.random.default_rng([3, run.step])
    for step, bar in run.steps("decoder", steps, 250):
        set_rate(optimizer, learning_rate(base_rate, step, steps))
        images = to_unit(scenes(rng, batch)[0]).to(DEVICE)
        with autocast():
            with torch.no_grad():
                latents = vae.encode(images).latent_dist.mean
                latents = latents + LATENT_NOISE / SCALING * torch.randn_like(latents)
            decoded = vae.decode(latents).sample.float()
        error = decoded - images
        loss = error.abs().mean() + error.square().mean()
        descend(loss, trained, optimizer)
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    finish_vae(work, vae)


@torch.no_grad()
def finish_vae(work: Path, vae: AutoencoderKL) -> None:
    """Save the autoencoder, and show what it does to scenes it has not seen."""
    vae.eval().save_pretrained(work / "vae")
    probe = to_unit(scenes(np.random.default_rng(1), 8)[0]).to(DEVICE)
    decoded = vae.decode(vae.encode(probe).latent_dist.mean).sample
    print(f"vae: mean absolute error {(decoded - probe).abs().mean().item() / 2:.4f} of full scale")
    sheet(work / "vae.png", torch.cat([probe, decoded]), columns=8)


def sheet(path: Path, images: torch.Tensor, columns: int) -> None:
    """Save images (n, 3, h, w) in [-1, 1] as one grid."""
    n, _, h, w = images.shape
    grid = images.float().cpu().reshape(n // columns, columns, 3, h, w).permute(0, 3, 1, 4, 2)
    grid = grid.reshape(n // columns * h, columns * w, 3)
    Image.fromarray(((grid.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()).save(path)


def show(path: Path, draw: Callable[[Sequence[str]], torch.Tensor]) -> None:
    """Save what a model draws of the validation prompts."""
    sheet(path, draw(VALIDATION), columns=len(VALIDATION))


def train_unet(work: Path, steps: int, batch: int, base_rate: float, tokenizer: Path, count: int) -> None:
    vae = AutoencoderKL.from_pretrained(work / "vae").to(DEVICE).eval().requires_grad_(False)
    vocabulary = Vocabulary(tokenizer)
    torch.manual_seed(0)
    models = torch.nn.ModuleDict({"text": build_text_encoder(len(vocabulary)), "unet": build_unet()}).to(DEVICE)
    path = work / "unet.pt"
    if not path.exists() and (work / "unet").exists():  # networks without the trainer's state: `export --restore`
        models["unet"].load_state_dict(UNet2DConditionModel.from_pretrained(work / "unet").state_dict())
        models["text"].load_state_dict(CLIPTextModel.from_pretrained(work / "text_encoder").state_dict())
    optimizer = torch.optim.AdamW(models.parameters(), lr=base_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = EMAModel(models.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    run = Resumed(path, models=models, optimizer=optimizer, ema=ema)
    ema.to(DEVICE)
    generator = torch.Generator().manual_seed(run.step)
    latents, rows = cached_latents(work, vae, vocabulary, count)
    masks, columns = cached_grounding(work, rows, vocabulary)
    maps = record(models["unet"])
    empty = vocabulary.encode([""])
    noise_schedule = DDPMScheduler(**SCHEDULE)
    density = importance(noise_schedule)

    started, log = time.time(), (work / "unet.log").open("a")
    average, average_grounding = 1.0, 0.3
    for step, bar in run.steps("unet", steps, 200):
        set_rate(optimizer, learning_rate(base_rate, step, steps))
        chosen, clean, noise, tokens, dropped = draw(latents, rows, empty, batch, generator)
        timesteps = torch.multinomial(density, batch, replacement=True, generator=generator)
        noisy = noise_schedule.add_noise(clean, noise, timesteps.to(DEVICE))
        with autocast():
            context = models["text"](tokens.to(DEVICE)).last_hidden_state
            predicted = models["unet"](noisy, timesteps.to(DEVICE), context).sample
        loss = F.mse_loss(predicted.float(), noise)
        named = torch.where(dropped, -1, columns[chosen]).to(DEVICE)
        grounding = grounding_loss(maps, masks[chosen].to(DEVICE).float() / 255, named)
        maps.clear()
        descend(loss + GROUNDING * grounding, models, optimizer)
        ema.step(models.parameters())
        average += 0.01 * (loss.item() - average)
        average_grounding += 0.01 * (grounding.item() - average_grounding)
        bar.set_postfix(loss=f"{average:.4f}", grounding=f"{average_grounding:.4f}", refresh=False)
        if (step + 1) % 500 == 0:
            ema.store(models.parameters())
            ema.copy_to(models.parameters())
            show(
                work / f"sample-{step + 1:06d}.png", partial(generate, models["text"], models["unet"], vae, vocabulary)
            )
            maps.clear()
            ema.restore(models.parameters())
            print(f"{step + 1} {average:.4f} {time.time() - started:.0f}s", file=log, flush=True)

    ema.copy_to(models.parameters())
    models["unet"].save_pretrained(work / "unet")
    models["text"].save_pretrained(work / "text_encoder")


@torch.no_grad()
def generate(text, unet, vae, vocabulary: Vocabulary, prompts, steps: int = 20, scale: float = 4.0) -> torch.Tensor:
    """Deterministic DDIM with classifier-free guidance. -> images (2 * prompts, 3, h, w) in [-1, 1], two seeds each."""
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(steps)
    captions = [*prompts, *prompts]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(captions), 4, LATENT_SIDE, LATENT_SIDE, generator=generator).to(DEVICE)
    context = text(vocabulary.encode([*captions, *[""] * len(captions)]).to(DEVICE)).last_hidden_state
    for t in scheduler.timesteps:
        conditional, unconditional = unet(torch.cat([x, x]), t, context).sample.chunk(2)
        x = scheduler.step(unconditional + scale * (conditional - unconditional), t, x).prev_sample
    return vae.decode(x / SCALING).sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("vae", "unet", "decoder", "inpaint", "transformer"))
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, caches and samples")
    parser.add_argument("--steps", type=int, required=True, help="total steps, those of earlier runs included")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=None, help="default 1e-3; unet 5e-4, inpaint 3e-4")
    parser.add_argument("--tokenizer", type=Path, help="the host's comfy/sd1_tokenizer folder (all but vae, decoder)")
    parser.add_argument("--scenes", type=int, default=30_000, help="how many scenes to encode and cache")
    parser.add_argument("--compile", action="store_true", help="the transformer, faster; needs a C++ compiler")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.stage == "vae":
        train_vae(args.work, args.steps, args.batch, args.rate or 1e-3)
    elif args.stage == "decoder":
        train_decoder(args.work, args.steps, args.batch, args.rate or 1e-3)
    elif args.tokenizer is None:
        parser.error(f"the {args.stage} stage needs --tokenizer")
    elif args.stage == "transformer":
        from .transformer import train_transformer

        of_run = (args.work, args.steps, args.batch, args.rate or 1e-3, args.tokenizer, args.scenes)
        train_transformer(*of_run, args.compile, show)
    elif args.stage == "inpaint":
        from .inpaint import train_inpaint

        train_inpaint(args.work, args.steps, args.batch, args.rate or 3e-4, args.tokenizer, args.scenes)
    else:
        train_unet(args.work, args.steps, args.batch, args.rate or 5e-4, args.tokenizer, args.scenes)


if __name__ == "__main__":
    main()
