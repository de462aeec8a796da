"""A diffusion transformer on shapeworld's scenes: the host's own NextDiT (Lumina 2, Z-Image), 16 x 16 image tokens.

It reads the states of shapeworld's text encoder, which stays as it is, of the prompt's tokens without the padding
behind them: what is behind them are the network's own padding tokens, as in Z-Image. It predicts noise - x0 of a
rectified flow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from ..guidance.attention.probe import in_training
from ..tools.in_process import import_host
from .data import DEVICE, autocast, cached_grounding, cached_latents, draw
from .networks import LATENT_SIDE, SCALING, TEXT_WIDTH, Vocabulary

# isort: split
# after .networks, which makes torchvision importable
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import save_model
from transformers import CLIPTextModel

from .descent import Resumed, descend, learning_rate, set_rate
from .grounding import grounding_loss

CONFIG = {
    "image_model": "lumina2",
    "patch_size": 1,
    "in_channels": 4,
    "dim": 256,
    "n_layers": 6,
    "n_refiner_layers": 1,
    "n_heads": 8,
    "n_kv_heads": 8,
    "multiple_of": 32,
    "ffn_dim_multiplier": 2.0,
    "qk_norm": True,
    "cap_feat_dim": TEXT_WIDTH,
    "axes_dims": [8, 12, 12],
    "axes_lens": [64, 64, 64],
    "time_scale": 1000.0,
    "z_image_modulation": True,
    "pad_tokens_multiple": 32,
}
TOKENS = CONFIG["pad_tokens_multiple"]  # no caption of the scenes is longer
CELLS = LATENT_SIDE**2
END = 2  # row of the end token in `Vocabulary`
GROUNDING = 0.3  # weight of the loss on the maps; more than the UNet's, whose cross-attention has text alone
SHIFT = 1.5  # of the noise levels that are trained on: more of the high ones, where objects find their places


def build_transformer() -> torch.nn.Module:
    """The host's class with trainable PyTorch layers, initialised as DiT (Peebles & Xie 2023, section 3.2): every
    block begins as the identity."""
    import_host(cpu=DEVICE == "cpu")
    from comfy.ldm.lumina.model import NextDiT

    network = NextDiT(**CONFIG, operations=torch.nn)
    for name, parameter in network.named_parameters():
        if "adaLN" in name or name.startswith("final_layer") or name.endswith(".bias"):
            torch.nn.init.zeros_(parameter)
        elif parameter.ndim == 2:
            small = "pad_token" in name or "t_embedder" in name
            torch.nn.init.normal_(parameter, std=0.02) if small else torch.nn.init.xavier_uniform_(parameter)
    return network


class Forward:
    """The network on captions of different lengths: `forward(noisy, sigma, states, lengths)` -> what it predicts."""

    def __init__(self, network: torch.nn.Module, compiled: bool) -> None:
        self.network = network
        self.maps: list[torch.Tensor] = []
        """Of every layer: the share of each text token among all of them, (B, cells, tokens). Clear it each step."""
        network.cap_embedder.register_forward_hook(self._padded)
        for layer in network.layers if compiled else ():
            layer.compile()

    def _padded(self, _module, _args, embedded: torch.Tensor) -> torch.Tensor:
        """What the host puts behind each caption when it comes alone."""
        behind = torch.arange(embedded.shape[1], device=embedded.device) >= self.lengths[:, None]
        return torch.where(behind[..., None], self.network.cap_pad_token.to(embedded.dtype), embedded)

    def __call__(self, noisy: torch.Tensor, sigma: torch.Tensor, states: torch.Tensor, lengths: torch.Tensor):
        self.lengths = lengths
        options = {"optimized_attention_override": self._attention}
        with in_training():
            return self.network(noisy, sigma, states, TOKENS, transformer_options=options)

    def _attention(self, _func, q, k, v, heads, *_args, **_kwargs) -> torch.Tensor:
        if q.shape[2] == TOKENS + CELLS:
            scores = q[:, :, TOKENS:] @ k[:, :, :TOKENS].transpose(-1, -2) * q.shape[-1] ** -0.5
            self.maps.append(scores.float().softmax(-1).mean(1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def lengths_of(rows: torch.Tensor) -> torch.Tensor:
    """Tokens of each caption, the begin and the first end token included: rows (n, 77) -> (n,)."""
    return (rows == END).int().argmax(1) + 1


def optimizers(network: torch.nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the blocks, where it needs far fewer steps; AdamW for the rest."""
    blocks = ("layers.", "noise_refiner.", "context_refiner.")
    matrices, rest = [], []  # in order: what is saved goes by number
    for name, parameter in network.named_parameters():
        matrix = parameter.ndim == 2 and name.startswith(blocks) and "adaLN" not in name
        (matrices if matrix else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
    ]


def train_transformer(
    work: Path,
    steps: int,
    batch: int,
    base_rate: float,
    tokenizer: Path,
    count: int,
    compiled: bool,
    show: Callable[[Path, Callable], None],
) -> None:
    """Needs vae/ and text_encoder/ in ``work``; leaves transformer.safetensors. compiled: by torch.compile.

    show(file, draw): saves the pictures of draw(prompts).
    """
    vae = AutoencoderKL.from_pretrained(work / "vae").to(DEVICE).eval().requires_grad_(False)
    text = CLIPTextModel.from_pretrained(work / "text_encoder").to(DEVICE).eval().requires_grad_(False)
    torch.manual_seed(0)
    network = build_transformer().to(DEVICE)
    muon, adamw = optimizers(network, base_rate)
    ema = EMAModel(network.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    run = Resumed(work / "transformer.pt", network=network, muon=muon, adamw=adamw, ema=ema)
    ema.to(DEVICE)
    generator = torch.Generator().manual_seed(run.step)
    vocabulary = Vocabulary(tokenizer)
    latents, rows = cached_latents(work, vae, vocabulary, count)
    masks, columns = cached_grounding(work, rows, vocabulary)
    empty = vocabulary.encode([""])
    forward = Forward(network, compiled)

    started, log = time.time(), (work / "transformer.log").open("a")
    average, average_grounding = 1.0, 0.3
    for step, bar in run.steps("transformer", steps, 200):
        for optimizer in (muon, adamw):
            set_rate(optimizer, learning_rate(base_rate, step, steps))
        chosen, clean, noise, tokens, dropped = draw(latents, rows, empty, batch, generator)
        sigma = torch.randn(batch, generator=generator).sigmoid().to(DEVICE)
        sigma = SHIFT * sigma / (1 + (SHIFT - 1) * sigma)
        level = sigma[:, None, None, None]
        with autocast():
            states = text(tokens[:, :TOKENS].to(DEVICE)).last_hidden_state
            predicted = forward((1 - level) * clean + level * noise, sigma, states, lengths_of(tokens).to(DEVICE))
        loss = F.mse_loss(predicted.float(), noise - clean)
        named = torch.where(dropped, -1, columns[chosen]).to(DEVICE)
        grounding = grounding_loss(forward.maps, masks[chosen].to(DEVICE).float() / 255, named)
        forward.maps.clear()
        descend(loss + GROUNDING * grounding, network, muon, adamw)
        ema.step(network.parameters())
        average += 0.01 * (loss.item() - average)
        average_grounding += 0.01 * (grounding.item() - average_grounding)
        bar.set_postfix(loss=f"{average:.4f}", grounding=f"{average_grounding:.4f}", refresh=False)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            ema.store(network.parameters())
            ema.copy_to(network.parameters())
            save_model(network, work / "transformer.safetensors")
            with torch.compiler.set_stance("force_eager"):  # other shapes, and no gradient
                show(work / f"transformer-{step + 1:06d}.png", partial(generate, forward, text, vae, vocabulary))
            ema.restore(network.parameters())
            print(
                f"{step + 1} {average:.4f} {average_grounding:.4f} {time.time() - started:.0f}s", file=log, flush=True
            )


@torch.no_grad()
def generate(forward: Forward, text, vae, vocabulary: Vocabulary, prompts, steps: int = 20, scale: float = 4.0):
    """Euler with classifier-free guidance. -> images (2 * prompts, 3, h, w) in [-1, 1], two seeds each."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    scheduler.set_timesteps(steps)
    captions = [*prompts, *prompts]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(captions), 4, LATENT_SIDE, LATENT_SIDE, generator=generator).to(DEVICE)
    tokens = vocabulary.encode([*captions, *[""] * len(captions)]).to(DEVICE)
    states, lengths = text(tokens[:, :TOKENS]).last_hidden_state, lengths_of(tokens)
    for t in scheduler.timesteps:
        sigma = (t / 1000).expand(len(tokens)).to(DEVICE)
        conditional, unconditional = forward(torch.cat([x, x]), sigma, states, lengths).chunk(2)
        x = scheduler.step(unconditional + scale * (conditional - unconditional), t, x).prev_sample
        forward.maps.clear()
    return vae.decode(x / SCALING).sample
