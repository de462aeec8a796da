"""For the tests of the local adapter's trainer: bases of the published structure, options, data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from training_data import WIDTH, WIDTH_2, reader, tiny_base

from limelight.shapeworld import datasets

CHANNELS = (32, 64, 128, 128)  # of adapters for these bases: those of the host's class, a tenth as wide


def base(kind: str = "SD1", prediction: str = "epsilon") -> Any:
    """A base whose UNet has the published blocks, narrow and with random weights."""
    made = tiny_base(kind, prediction=prediction)
    from diffusers import UNet2DConditionModel

    xl = kind == "SDXL"
    more: dict[str, Any] = {"use_linear_projection": kind != "SD1"}
    if xl:
        more |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        more |= {"projection_class_embeddings_input_dim": WIDTH_2 + 6 * 256}
    cross, plain = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")
    blocks = (plain, cross, cross) if xl else (cross, cross, cross, plain)
    torch.manual_seed(0)
    made.unet = UNet2DConditionModel(
        block_out_channels=CHANNELS[:3] if xl else CHANNELS,
        layers_per_block=1,
        down_block_types=tuple(down for down, _ in blocks),
        up_block_types=tuple(up for _, up in reversed(blocks)),
        cross_attention_dim=WIDTH + WIDTH_2 * xl,
        attention_head_dim=4,
        **more,
    )
    made.unet.requires_grad_(False).eval()
    return made


def options(output: Path, *more: str, base: str = "in memory", data: str = "in memory") -> Any:
    """Options for small runs, checked as the program does it."""
    from limelight.training.train_local_adapter import arguments

    given = ["--pretrained_model_name_or_path", base, "--train_data_dir", data, "--output_dir", str(output)]
    given += ["--resolution", "64", "--train_batch_size", "2", "--gradient_accumulation_steps", "1"]
    given += ["--validation_steps", "0", "--max_train_steps", "2", "--log_steps", "1"]
    return arguments([*given, *more])


def scenes(count: int = 6) -> list[dict[str, Any]]:
    """Pictures of 64 pixels with captions and edges."""
    return list(datasets.samples("local", count, 0, 64))


def task(base: Any, given: Any) -> Any:
    from limelight.training.train_local_adapter import LocalAdapter

    return LocalAdapter(base, given)


def train(base: Any, given: Any, found: list | None = None) -> tuple[Any, list[Path]]:
    """-> the task after its training, and the exported files."""
    from limelight.training import run

    made = task(base, given)
    return made, run.train(made, base, given, reader(found or scenes()))


def batch(made: Any, count: int = 4) -> dict[str, torch.Tensor]:
    """Some samples as the loss gets them, not mirrored."""
    found = scenes(count)
    views = [made.views(sample, None)[0] for sample in found]
    rows = made.encode(views)
    text = made.base.encode_text([sample["text"] for sample in found])
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} | text
