"""Stage ``inpaint`` of the trainer: the UNet learns to fill holes, as the base of an inpainting ControlNet must.

Nine channels go in, as in Stable Diffusion's inpainting models: noisy latent 4 | mask 1 (1 = paint) | latent of the
picture with the hole filled grey 4. The new ones start at zero, so that training begins with the base model. Cross-
attention and the middle block stay the base's: the words keep their maps, and the file stays small.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from .data import DEVICE, autocast, cached_grounding, cached_latents, draw, save, to_unit
from .holes import random_hole
from .networks import SCALING, Vocabulary, widened
from .scenes import random_scene, render

# isort: split
# after .networks, which makes torchvision importable
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from transformers import CLIPTextModel

from .descent import GROUNDING, SCHEDULE, Resumed, descend, importance, learning_rate, set_rate
from .grounding import grounding_loss, record

PAIRS = 10_000  # scenes that get a hole, the first of the cached ones
FROZEN = ("mid_block.", ".attn2.")


def masked_input(images: torch.Tensor, holes: torch.Tensor, vae: torch.nn.Module) -> torch.Tensor:
    """What the host's InpaintModelConditioning makes of images (n, 3, h, w) in [-1, 1] and holes (n, 1, h, w) in {0, 1}
    -> (n, 5, h / 8, w / 8): the mask, and the latent of the picture that is grey in the hole."""
    latent = vae.encode(images * (1 - holes)).latent_dist.mean * SCALING
    mask = F.interpolate(holes, latent.shape[-2:], mode="bilinear").round()
    return torch.cat([mask, latent.float()], 1)


@torch.no_grad()
def cached_holes(work: Path, vae: torch.nn.Module, count: int) -> torch.Tensor:
    """-> float16 (count, 5, 16, 16): `masked_input` of the first ``count`` cached scenes, drawn again from the same
    random numbers, with one hole each."""
    path = work / f"holes-{count}.pt"
    if not path.exists():
        rng, of_holes, parts = np.random.default_rng(2), np.random.default_rng(4), []
        for _ in tqdm(range(count // 100), desc="holes", mininterval=5):
            drawn = [render(scene, rng=rng) for scene in [random_scene(rng) for _ in range(100)]]
            images = to_unit(np.stack([image for image, _ in drawn])).to(DEVICE)
            holes = np.stack([random_hole(of_holes, objects) for _, objects in drawn])
            with autocast():
                parts.append(masked_input(images, torch.from_numpy(holes)[:, None].float().to(DEVICE), vae))
        save(path, holes=torch.cat(parts).half().cpu())
    return torch.load(path, weights_only=True)["holes"]


def train_inpaint(work: Path, steps: int, batch: int, base_rate: float, tokenizer: Path, count: int) -> None:
    """Needs what the other stages leave in ``work``: vae/, unet/, text_encoder/. Leaves unet_inpaint/ beside them."""
    vae = AutoencoderKL.from_pretrained(work / "vae").to(DEVICE).eval().requires_grad_(False)
    text = CLIPTextModel.from_pretrained(work / "text_encoder").to(DEVICE).eval().requires_grad_(False)
    unet = widened(UNet2DConditionModel.from_pretrained(work / "unet"), 9).to(DEVICE)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(not any(part in name for part in FROZEN))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=base_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = EMAModel(trained, decay=0.999, use_ema_warmup=True, power=0.75)
    run = Resumed(work / "inpaint.pt", unet=unet, optimizer=optimizer, ema=ema)
    ema.to(DEVICE)
    generator = torch.Generator().manual_seed(run.step)
    vocabulary = Vocabulary(tokenizer)
    latents, rows = cached_latents(work, vae, vocabulary, count)
    masks, columns = cached_grounding(work, rows, vocabulary)
    holes = cached_holes(work, vae, min(PAIRS, count))
    maps = record(unet)
    empty = vocabulary.encode([""])
    noise_schedule = DDPMScheduler(**SCHEDULE)
    density = importance(noise_schedule)

    def export() -> None:
        ema.store(trained)
        ema.copy_to(trained)
        unet.save_pretrained(work / "unet_inpaint")
        ema.restore(trained)

    started, log = time.time(), (work / "inpaint.log").open("a")
    average, average_grounding = 0.05, 0.1
    for step, bar in run.steps("inpaint", steps, 100, export):
        set_rate(optimizer, learning_rate(base_rate, step, steps))
        chosen, clean, noise, tokens, dropped = draw(latents[: len(holes)], rows, empty, batch, generator)
        given = holes[chosen].float().to(DEVICE)
        timesteps = torch.multinomial(density, batch, replacement=True, generator=generator)
        noisy = noise_schedule.add_noise(clean, noise, timesteps.to(DEVICE))
        with autocast():
            context = text(tokens.to(DEVICE)).last_hidden_state
            predicted = unet(torch.cat([noisy, given], 1), timesteps.to(DEVICE), context).sample
        loss = F.mse_loss(predicted.float(), noise)
        named = torch.where(dropped, -1, columns[chosen]).to(DEVICE)
        grounding = grounding_loss(maps, masks[chosen].to(DEVICE).float() / 255, named)
        maps.clear()
        descend(loss + GROUNDING * grounding, unet, optimizer)
        ema.step(trained)
        average += 0.02 * (loss.item() - average)
        average_grounding += 0.02 * (grounding.item() - average_grounding)
        bar.set_postfix(loss=f"{average:.4f}", grounding=f"{average_grounding:.4f}", refresh=False)
        if (step + 1) % 100 == 0:
            print(
                f"{step + 1} {average:.4f} {average_grounding:.4f} {time.time() - started:.0f}s", file=log, flush=True
            )
