"""The command line that all trainers share. Names and meanings are those of diffusers' example programs.

Everything that can be wrong with it is said before anything large is read.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..guidance.errors import LimelightError
from .noise import PREDICTIONS

PRECISIONS = "no", "fp16", "bf16"
DTYPES = "float32", "float16", "bfloat16"
SCHEDULERS = "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
MULTIPLE = 64  # of pixels: what every level of every UNet divides


def parser(module: str, text: str, presets: Mapping[str, Mapping[str, Any]] | None = None) -> argparse.ArgumentParser:
    """The shared options of the trainer ``module`` (its __name__ or a name); it adds its own. text: its docstring."""
    made = argparse.ArgumentParser(
        prog=f"python -m limelight.training.{module.rsplit('.', 1)[-1]}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if presets:
        made.add_argument("--preset", choices=tuple(presets), help="a published recipe; other options still count")
    add = made.add_argument_group("data and base model").add_argument
    add("--pretrained_model_name_or_path", required=True, metavar="PATH", help="a diffusers folder or .safetensors")
    add("--prediction_type", choices=PREDICTIONS, help="what the base predicts (default: as its folder says)")
    add("--tokenizer", metavar="DIR", help="of a base in one file: CLIP's vocabulary (default: from the Hub)")
    add("--train_data_dir", required=True, metavar="SOURCE", help="folder with metadata.jsonl, or WebDataset shards")
    add("--max_train_samples", type=int, metavar="N", help="only the first so many samples")
    add("--resolution", type=int, nargs="+", default=[512], metavar="N", help="pixels: a side, or width and height")
    add("--output_dir", required=True, type=Path, metavar="DIR", help="checkpoints, log and the weights at the end")
    add("--stream", action="store_true", help="encode samples as they come and cache nothing: for vast data")
    add("--cache_dir", type=Path, metavar="DIR", help="of encoded samples (default OUTPUT_DIR/cache)")
    add("--proportion_empty_prompts", type=float, default=0.1, metavar="P", help="(default %(default)s)")
    add("--dataloader_num_workers", type=int, default=0, metavar="N")
    add("--seed", type=int, default=0)

    add = made.add_argument_group("training").add_argument
    add("--max_train_steps", type=int, default=20_000, metavar="N", help="(default %(default)s)")
    add("--train_batch_size", type=int, default=8, metavar="N", help="of each process (default %(default)s)")
    add("--gradient_accumulation_steps", type=int, default=1, metavar="N")
    add("--gradient_checkpointing", action=argparse.BooleanOptionalAction, default=False, help="less memory, slower")
    add("--mixed_precision", choices=PRECISIONS, help="of arithmetic and frozen parts (default: accelerate's config)")
    add("--allow_tf32", action="store_true", help="faster float32 on Ampere GPUs and newer")
    add("--learning_rate", type=float, default=1e-5, metavar="X", help="(default %(default)s)")
    add("--lr_scheduler", choices=SCHEDULERS, default="constant", help="(default %(default)s)")
    add("--lr_warmup_steps", type=int, default=0, metavar="N")
    add("--lr_num_cycles", type=int, default=1, metavar="N")
    add("--lr_power", type=float, default=1.0, metavar="X")
    add("--use_8bit_adam", action=argparse.BooleanOptionalAction, default=False, help="needs bitsandbytes")
    add("--adam_beta1", type=float, default=0.9, metavar="X")
    add("--adam_beta2", type=float, default=0.999, metavar="X")
    add("--adam_weight_decay", type=float, default=1e-2, metavar="X")
    add("--adam_epsilon", type=float, default=1e-8, metavar="X")
    add("--max_grad_norm", type=float, default=1.0, metavar="X", help="0: no clipping (default %(default)s)")
    add("--use_ema", action=argparse.BooleanOptionalAction, default=False, help="export a running average")
    add("--ema_decay", type=float, default=0.9999, metavar="X", help="(default %(default)s)")
    add("--snr_gamma", type=float, metavar="X", help="min-SNR weights of the loss; 5 is usual (default: none)")

    add = made.add_argument_group("checkpoints, log and validation").add_argument
    add("--checkpointing_steps", type=int, default=500, metavar="N", help="(default %(default)s)")
    add("--checkpoints_total_limit", type=int, metavar="N", help="older ones are deleted")
    add("--resume_from_checkpoint", metavar="NAME", help="'latest', or the name or path of one")
    add("--validation_steps", type=int, default=500, metavar="N", help="0: never (default %(default)s)")
    add("--num_validation_images", type=int, default=4, metavar="N", help="(default %(default)s)")
    add("--export_dtype", choices=DTYPES, default=DTYPES[0], help="of the weights at the end (default %(default)s)")
    add("--log_steps", type=int, default=10, metavar="N", help="how often the log is written (default %(default)s)")
    return made


def parse(
    made: argparse.ArgumentParser, argv: Sequence[str] | None, presets: Mapping[str, Mapping[str, Any]] | None = None
) -> argparse.Namespace:
    """The options, a preset's values where none are given, checked; ``resolution`` is (width, height)."""
    chosen = None
    if presets:
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--preset", choices=tuple(presets))
        chosen = first.parse_known_args(argv)[0].preset
    if presets and chosen:
        made.set_defaults(**presets[chosen])
    options = made.parse_args(argv)
    try:
        check(options)
    except LimelightError as error:
        made.error(str(error))
    return options


def check(options: argparse.Namespace) -> None:
    """Raises LimelightError for what cannot be; completes what follows from others."""
    sides = list(options.resolution)
    if len(sides) not in (1, 2) or any(side <= 0 or side % MULTIPLE for side in sides):
        raise LimelightError(
            f"--resolution: found {' '.join(map(str, sides))}; expected a side, or width and height, in multiples of "
            f"{MULTIPLE}."
        )
    options.resolution = (sides[0], sides[-1])
    for name in ("max_train_steps", "train_batch_size", "gradient_accumulation_steps", "checkpointing_steps"):
        _at_least(options, name, 1)
    for name in ("max_train_samples", "checkpoints_total_limit", "log_steps"):
        _at_least(options, name, 1)
    for name in ("validation_steps", "num_validation_images", "lr_warmup_steps", "dataloader_num_workers"):
        _at_least(options, name, 0)
    for name in ("proportion_empty_prompts", "ema_decay"):
        _at_least(options, name, 0)
        if getattr(options, name) > 1:
            raise LimelightError(f"--{name}: found {getattr(options, name):g}; expected a share from 0 to 1.")
    if not options.learning_rate > 0:
        raise LimelightError(f"--learning_rate: found {options.learning_rate:g}; expected more than 0.")
    if options.use_8bit_adam and importlib.util.find_spec("bitsandbytes") is None:
        raise LimelightError("--use_8bit_adam: bitsandbytes is not installed. `pip install bitsandbytes`, or leave it.")
    options.cache_dir = options.cache_dir or options.output_dir / "cache"


def _at_least(options: argparse.Namespace, name: str, least: float) -> None:
    value = getattr(options, name)
    if value is not None and value < least:
        raise LimelightError(f"--{name}: found {value:g}; expected {least:g} or more.")
