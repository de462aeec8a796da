"""Training as diffusers' own example programs do it, on shapeworld: what `training` is compared with.

Written from what train_controlnet.py and train_t2i_adapter_sdxl.py do, step by step: pictures are read, resized,
cropped and normalised as they come; the autoencoder encodes them at every step, as does the text encoder for
ControlNets (the adapter's example encodes all captions beforehand); noise, network, UNet, MSE; AdamW, clipping,
schedule, progress bar through accelerate. The adapter's example leaves the UNet's own weights their gradients, which
nobody reads; here the UNet is frozen, unless it is asked for as in the example. There is no example with nine channels:
that one is the ControlNet's with a second encoding, of the masked picture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from tqdm import tqdm

from ..tools.torchvision_ops import define_missing_operators

define_missing_operators()  # before diffusers and transformers, which import torchvision

from accelerate import Accelerator  # noqa: E402
from datasets import load_dataset  # noqa: E402
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, T2IAdapter, UNet2DConditionModel  # noqa: E402
from diffusers.optimization import get_scheduler  # noqa: E402
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: E402

HINTS = {  # column of the data, by trainer
    "saliency-controlnet": "saliency",
    "salient-controlnet": "object",
    "salient-inpaint-controlnet": "mask",
    "local-adapter": "hint",
}


class Pictures:
    """What a batch of rows becomes when it is read. more: columns besides the picture, and the PIL mode of each."""

    def __init__(self, side: int, tokenizer: CLIPTokenizer, **more: str):
        self.side, self.tokenizer, self.more = side, tokenizer, more

    def __call__(self, rows: dict[str, list]) -> dict[str, Any]:
        """-> "image" (3, H, W) each in [-1, 1], "ids" (tokens,), and what else is read, in [0, 1]."""
        found = {"image": [2 * self._made(image, "RGB") - 1 for image in rows["image"]], "number": rows["number"]}
        found["ids"] = list(token_ids(self.tokenizer, rows["text"]))
        return found | {name: [self._made(image, mode) for image in rows[name]] for name, mode in self.more.items()}

    def _made(self, image: Image.Image, mode: str) -> torch.Tensor:
        image, scale = image.convert(mode), self.side / min(image.size)
        image = image.resize([round(scale * length) for length in image.size], Image.Resampling.BILINEAR)
        left, top = ((length - self.side) // 2 for length in image.size)
        image = image.crop((left, top, left + self.side, top + self.side))
        values = torch.from_numpy(np.array(image)).reshape(self.side, self.side, -1)
        return values.permute(2, 0, 1).contiguous().float() / 255


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """-> (captions, tokens)."""
    length = tokenizer.model_max_length
    return tokenizer(captions, max_length=length, padding="max_length", truncation=True, return_tensors="pt").input_ids


def run(
    name: str,
    base: Path,
    data: Path,
    output: Path,
    steps: int,
    batch: int,
    side: int,
    seed: int,
    frozen: bool = True,
    wait: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Train what the trainer ``name`` trains, and save it. -> the network.

    base: a diffusers folder. data: an imagefolder. side: pixels. frozen: the UNet. wait: called before each step.
    """
    accelerator = Accelerator(gradient_accumulation_steps=1)
    torch.manual_seed(seed)
    adapter, hint = name == "local-adapter", HINTS[name]
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(base / "text_encoder").requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(base / "vae").requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(base / "unet").requires_grad_(not frozen)
    scheduler = DDPMScheduler.from_pretrained(base / "scheduler")
    rows = load_dataset("imagefolder", data_dir=str(data), split="train", cache_dir=str(output / "data"))
    texts = rows["text"]
    rows = rows.add_column("number", range(len(rows)))
    pictures = Pictures(side, tokenizer, **{hint: "L" if adapter or hint == "mask" else "RGB"})
    captions = None
    if adapter:
        widths = list(unet.config.block_out_channels)
        network = T2IAdapter(1, widths, num_res_blocks=2, downscale_factor=8, adapter_type="full_adapter")
        with torch.no_grad():
            captions = torch.cat([encoder(token_ids(tokenizer, [text]))[0] for text in texts])
    else:
        network = ControlNetModel.from_unet(unet)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    schedule = get_scheduler("constant", optimizer, num_warmup_steps=0, num_training_steps=steps)
    loader = torch.utils.data.DataLoader(rows.with_transform(pictures), batch, shuffle=True, drop_last=True)
    network, optimizer, loader, schedule = accelerator.prepare(network, optimizer, loader, schedule)
    network.register_forward_pre_hook(lambda *_: wait())

    def latents(images: torch.Tensor) -> torch.Tensor:
        return vae.encode(images).latent_dist.sample() * vae.config.scaling_factor

    done, bar = 0, tqdm(total=steps, desc="example")
    while done < steps:
        for given in loader:
            with accelerator.accumulate(network):
                clean = latents(given["image"])
                noise = torch.randn_like(clean)
                u = torch.rand(len(clean))
                count = scheduler.config.num_train_timesteps
                t = ((1 - u**3 if adapter else u) * count).long().clamp(max=count - 1)
                noisy = scheduler.add_noise(clean, noise, t)
                context = encoder(given["ids"], return_dict=False)[0] if captions is None else captions[given["number"]]
                if adapter:
                    added = {"down_intrablock_additional_residuals": list(network(given[hint]))}
                else:
                    shown = given[hint]
                    if hint == "mask":  # there white is the object
                        paint = (shown < 0.5).float()
                        masked = latents(given["image"] * (1 - paint))
                        noisy = torch.cat([noisy, F.interpolate(paint, masked.shape[-2:]), masked], 1)
                        shown = (1 - shown).expand(-1, 3, -1, -1)
                    down, middle = network(noisy, t, context, shown, return_dict=False)
                    added = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
                predicted = unet(noisy, t, context, return_dict=False, **added)[0]
                loss = F.mse_loss(predicted.float(), noise.float(), reduction="mean")
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            bar.update()
            bar.set_postfix(loss=loss.detach().item(), lr=schedule.get_last_lr()[0])
            done += 1
            if done == steps:
                break
    bar.close()
    made = accelerator.unwrap_model(network)
    made.save_pretrained(output)
    return made
