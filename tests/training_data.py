"""For the tests of trainers: a small data set of shapeworld's scenes, and small base models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from limelight.guidance.saliency.maps import blur
from limelight.shapeworld.scenes import random_scene, render
from limelight.tools.in_process import host_path

WIDTH = 64  # of the first text encoder
WIDTH_2 = 96  # of the second, where there is one
HEADS = 64  # channels a head, which the host takes for networks of unknown size


def scenes(count: int = 8, seed: int = 0, side: int = 128) -> list[dict[str, Any]]:
    """Samples as `training.samples` gives them: "image", the first object's "mask", it blurred as "saliency"."""
    rng, found = np.random.default_rng(seed), []
    for i in range(count):
        scene = random_scene(rng)
        picture, masks = render(scene, side, rng)
        saliency = blur(masks[0], side / 16)
        saliency, mask = (np.round(one / one.max() * 255).astype(np.uint8) for one in (saliency, masks[0]))
        pictures = {"image": picture, "saliency": saliency, "mask": mask}
        pictures = {name: Image.fromarray(values) for name, values in pictures.items()}
        found.append({"key": f"{i:03}.png", "row": i, "text": scene.caption, **pictures})
    return found


def write_scenes(folder: Path, count: int = 8, seed: int = 0, side: int = 128) -> Path:
    """The same as an imagefolder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for sample in scenes(count, seed, side):
        line = {"file_name": sample["key"], "text": sample["text"]}
        sample["image"].save(folder / sample["key"])
        for name in ("saliency", "mask"):
            line[f"{name}_file_name"] = f"{Path(sample['key']).stem}.{name}.png"
            sample[name].save(folder / line[f"{name}_file_name"])
        lines.append(json.dumps(line))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def reader(found: list[dict[str, Any]]):
    """Samples in memory as `training.run.train` reads them."""
    return lambda rank, processes, report, row=0: iter(found[rank::processes][row:])


def write_shapeworld(folder: Path, inpaint: bool = False) -> Path:
    """Shapeworld as a diffusers folder; inpaint: with the UNet for inpainting."""
    from limelight.shapeworld.export import write_diffusers
    from limelight.shapeworld.nodes import WEIGHTS

    own = WEIGHTS.with_stem(f"{WEIGHTS.stem}_inpaint") if inpaint else None
    write_diffusers(WEIGHTS, folder, host_path(), own)
    return folder


def tiny_base(kind: str = "SD1", seed: int = 0, prediction: str = "epsilon", single: bool = False):
    """A base of the kind ("SD1", "SD2", "SDXL") with small random networks and the real tokenizer.

    single: with what a checkpoint in one file cannot say (heads, groups of norms, scale) as published models have it.
    """
    from limelight.training.base import Base

    # isort: split
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(seed)
    xl = kind == "SDXL"
    tokenizer = CLIPTokenizer.from_pretrained(str(host_path() / "comfy" / "sd1_tokenizer"), model_max_length=77)

    def tower(width: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=1 if single else 4,
            hidden_act="gelu" if single and (kind == "SD2" or width == WIDTH_2) else "quick_gelu",
            projection_dim=width,
            eos_token_id=tokenizer.eos_token_id,
        )

    text = (CLIPTextModel(tower(WIDTH)),) + ((CLIPTextModelWithProjection(tower(WIDTH_2)),) if xl else ())
    wide = 4 if single else 1
    vae = AutoencoderKL(
        block_out_channels=(8 * wide, 8 * wide, 16 * wide, 16 * wide),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8 * wide,
        latent_channels=4,
        scaling_factor=0.13025 if xl else 0.18215,
    )
    more: dict[str, Any] = {"use_linear_projection": kind != "SD1"}
    if xl:
        more |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        more |= {"projection_class_embeddings_input_dim": WIDTH_2 + 6 * 256, "transformer_layers_per_block": (1, 2)}
    unet = UNet2DConditionModel(
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D" if xl else "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D" if xl else "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH + WIDTH_2 * xl,
        attention_head_dim=8 if single and kind == "SD1" else (1, 2),  # the number of heads
        **more,
    )
    schedule = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return Base(kind, unet, vae, text, (tokenizer,) * len(text), schedule.alphas_cumprod, prediction, f"tiny {kind}")


def write_folder(base: Any, folder: Path) -> Path:
    """A base as a diffusers folder."""
    from diffusers import DDIMScheduler

    base.unet.save_pretrained(folder / "unet")
    base.vae.save_pretrained(folder / "vae")
    for number, (encoder, tokenizer) in enumerate(zip(base.text_encoders, base.tokenizers, strict=True), start=1):
        ending = "" if number == 1 else f"_{number}"
        encoder.save_pretrained(folder / f"text_encoder{ending}")
        tokenizer.save_pretrained(folder / f"tokenizer{ending}")
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=base.prediction
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    return folder


def saliency_argv(output: Path | str, *more: str, base: str = "in memory", data: str = "in memory") -> list[str]:
    """The command line of the saliency trainer for small runs."""
    given = ["--pretrained_model_name_or_path", base, "--train_data_dir", data, "--output_dir", str(output)]
    given += ["--resolution", "64", "--train_batch_size", "2", "--validation_steps", "0", "--max_train_steps", "2"]
    return [*given, "--log_steps", "1", *more]


def saliency_options(output: Path | str, *more: str, base: str = "in memory", data: str = "in memory"):
    """The same, parsed."""
    from limelight.training.train_saliency_controlnet import arguments

    return arguments(saliency_argv(output, *more, base=base, data=data))


def train_saliency(base: Any, options: Any, read: Any = None):
    """-> the task after its training, and the exported files."""
    from accelerate.state import AcceleratorState

    from limelight.training import run
    from limelight.training.train_saliency_controlnet import SaliencyControlNet

    AcceleratorState._reset_state(True)  # of a training before, which may have had another precision
    task = SaliencyControlNet(base, options)
    return task, run.train(task, base, options, read)
