"""What the trainers read: scenes as tensors, and their latents, tokens and masks, cached on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .networks import LATENT_SIDE, SCALING, Vocabulary
from .scenes import random_scene, render, render_mask

CAPTION_DROPOUT = 0.1
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def autocast() -> torch.autocast:
    return torch.autocast(DEVICE, torch.bfloat16)


def save(path: Path, **parts: object) -> None:
    partial = path.with_suffix(".partial")
    torch.save(parts, partial)
    partial.replace(path)


def to_unit(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def scenes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[str]]:
    """-> images uint8 (count, side, side, 3), captions."""
    drawn = [random_scene(rng) for _ in range(count)]
    return np.stack([render(scene, rng=rng)[0] for scene in drawn]), [scene.caption for scene in drawn]


@torch.no_grad()
def cached_latents(work: Path, vae: torch.nn.Module, vocabulary: Vocabulary, count: int) -> tuple[torch.Tensor, ...]:
    """-> white latents float16 (count, 4, 16, 16) and token rows (count, 77), encoded once and kept on disk."""
    path = work / f"latents-{count}.pt"
    if not path.exists():
        rng, latents, rows = np.random.default_rng(2), [], []
        for _ in tqdm(range(count // 100), desc="latents", mininterval=5):
            images, captions = scenes(rng, 100)
            with autocast():
                mean = vae.encode(to_unit(images).to(DEVICE)).latent_dist.mean
            latents.append((mean * SCALING).half().cpu())
            rows.append(vocabulary.encode(captions))
        save(path, latents=torch.cat(latents), rows=torch.cat(rows))
    cache = torch.load(path, weights_only=True)
    return cache["latents"], cache["rows"]


def cached_grounding(work: Path, rows: torch.Tensor, vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the objects of the cached scenes are, drawn again from the same random numbers.

    -> coverage uint8 (count, 3, 16, 16) and the column of each object's colour word (count, 3), -1 where there is none;
    the shape's word is the next column.
    """
    path = work / f"grounding-{len(rows)}.pt"
    if not path.exists():
        rng = np.random.default_rng(2)
        masks = torch.zeros(len(rows), 3, LATENT_SIDE, LATENT_SIDE, dtype=torch.uint8)
        columns = torch.full((len(rows), 3), -1)
        for start in tqdm(range(0, len(rows), 100), desc="grounding", mininterval=5):
            drawn = [random_scene(rng) for _ in range(100)]
            for index, scene in enumerate(drawn, start=start):
                rng.integers(0, 2, (1 + len(scene.things), 3))  # the colours' jitter
                pairs = vocabulary.encode([thing.phrase for thing in scene.things])[:, 1:3]
                for slot, (thing, pair) in enumerate(zip(scene.things, pairs, strict=True)):
                    masks[index, slot] = torch.from_numpy(render_mask(thing, LATENT_SIDE) * 255).byte()
                    found = (rows[index, :-1] == pair[0]) & (rows[index, 1:] == pair[1])
                    columns[index, slot] = int(found.nonzero()[0])
        save(path, masks=masks, columns=columns)
    cache = torch.load(path, weights_only=True)
    return cache["masks"], cache["columns"]


def draw(
    latents: torch.Tensor, rows: torch.Tensor, empty: torch.Tensor, batch: int, generator: torch.Generator
) -> tuple[torch.Tensor, ...]:
    """A batch of the cached scenes. empty: the token rows of no prompt, which some get in place of their own.

    -> which scenes (B,), clean latents and noise (B, 4, 16, 16), token rows (B, 77), which have none (B, 1).
    """
    chosen = torch.randint(len(latents), (batch,), generator=generator)
    clean = latents[chosen].float().to(DEVICE)
    dropped = torch.rand(batch, 1, generator=generator) < CAPTION_DROPOUT
    noise = torch.randn(clean.shape, generator=generator).to(DEVICE)
    return chosen, clean, noise, torch.where(dropped, empty, rows[chosen]), dropped
