"""A training from its options to its files, on accelerate: see `task.Task` for what a trainer adds."""

from __future__ import annotations

import argparse
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..guidance.errors import LimelightError
from ..tools.console import StepFailed, say
from . import cache, checkpoints, loop
from .base import Base, load
from .problems import Problems, Report
from .samples import check as check_samples
from .samples import samples
from .stream import Stream
from .task import Task

Read = Callable[..., Iterable[dict[str, Any]]]
"""(rank, processes, what to tell problems to, row to begin with = 0) -> that process's samples."""


def train(task: Task, base: Base, options: argparse.Namespace, read: Read | None = None) -> list[Path]:
    """Train to the last step; -> the exported files, in the main process. read: the data, if not those of
    ``--train_data_dir``.

    Raises LimelightError for what is wrong with options, data or disk.
    """
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision, gradient_accumulation_steps=options.gradient_accumulation_steps
    )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise LimelightError("--mixed_precision: fp16 needs a GPU, and there is none. Use bf16, or no.")
    if options.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
    recipe = {
        "task": task.name,
        "seed": options.seed,
        "samples_a_step": options.train_batch_size * accelerator.num_processes * options.gradient_accumulation_steps,
        "use_ema": options.use_ema,
        "stream": accelerator.num_processes if options.stream else 0,
    }
    found = _resumed(options, recipe)
    if read is None:
        check_samples(options.train_data_dir, task.images)
        read = _reader(options, task)
    _check_shared(accelerator, "--output_dir", options.output_dir)
    data: cache.Cache | Stream
    if options.stream:
        data, count = _streamed(accelerator, task, base, options, read), "samples as they come"
    else:
        data = _cached(accelerator, task, base, options, read)
        count = f"{len(data)} samples"
    if accelerator.is_main_process:
        say(f"{count}, {recipe['samples_a_step']} a step, {options.max_train_steps} steps")
    return loop.run(accelerator, task, base, options, data, recipe, found)


def _check_shared(accelerator: Accelerator, option: str, folder: Path) -> None:
    """Make a folder that all processes write to, and see whether it is one and the same to all, also on several
    machines."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".{broadcast_object_list([uuid.uuid4().hex])[0]}"
    if accelerator.is_main_process:
        mark.touch()
    accelerator.wait_for_everyone()
    there = mark.exists()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        mark.unlink()
    if not there:
        raise LimelightError(
            f"{option}: {folder} is another folder to this process than to the first. On several machines it has to be "
            "on a disk that all of them see."
        )


def main(task: Callable[[Base, argparse.Namespace], Task], options: argparse.Namespace) -> None:
    """The whole of a trainer's program. task: makes it. Raises StepFailed with what is wrong."""
    try:
        base = load(options.pretrained_model_name_or_path, options.prediction_type, options.tokenizer)
        train(task(base, options), base, options)
    except LimelightError as error:
        raise StepFailed(str(error)) from error


def _resumed(options: argparse.Namespace, recipe: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from, if it is one of the same training."""
    if options.resume_from_checkpoint is None:
        if there := checkpoints.complete(options.output_dir):
            raise LimelightError(
                f"--output_dir: {options.output_dir} has a training's checkpoints already ({there[-1].name}). Go on "
                f"with {checkpoints.OPTION} {checkpoints.LATEST}, or choose another folder."
            )
        return None
    found = checkpoints.find(options.output_dir, options.resume_from_checkpoint)
    if found is None:
        return None
    for name, wanted in recipe.items():
        if (was := found[1].get(name)) != wanted:
            raise LimelightError(
                f"{checkpoints.OPTION}: {found[0].name} is of a training with {name} {was}; now it is {wanted}. Use "
                "the same options and the same number of processes, or start anew in another folder."
            )
    return found


def _cached(accelerator: Accelerator, task: Task, base: Base, options: argparse.Namespace, read: Read) -> cache.Cache:
    """Encode what is not encoded yet, each process its share."""
    _check_shared(accelerator, "--cache_dir", options.cache_dir)
    rank, processes = accelerator.process_index, accelerator.num_processes
    dtype = torch.float32 if accelerator.mixed_precision == "no" else torch.float16
    folder = cache.folder_for(
        options.cache_dir,
        source=cache.source_fingerprint(options.train_data_dir),
        limit=options.max_train_samples,
        task=task.name,
        settings=task.settings,
        base=base.fingerprint(),
        dtype=str(dtype),
        seed=options.seed,
    )
    done = folder / "complete"
    if not done.exists():
        base.encoders_to(accelerator.device)
        problems = Problems()
        with torch.no_grad():
            share = read(rank, processes, problems, cache.next_row(folder, rank, processes))
            cache.fill(folder, share, task, options.seed, dtype, problems, rank, processes)
            accelerator.wait_for_everyone()
            cache.fill_text(folder, base, dtype, rank, processes)
        base.encoders_to("cpu")
        torch.cuda.empty_cache()  # does nothing where there is none
        if problems.kinds:
            say(problems.summary())
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            done.touch()
    data = cache.Cache(folder, options, rank, processes, accelerator.device)
    if not len(data):
        raise LimelightError(f"--train_data_dir: {options.train_data_dir} has no sample that can be used; see above.")
    return data


def _streamed(accelerator: Accelerator, task: Task, base: Base, options: argparse.Namespace, read: Read) -> Stream:
    """Nothing is encoded before it is needed."""
    ranks = accelerator.process_index, accelerator.num_processes
    return Stream(read, task, base, options, *ranks, accelerator.device, Problems())


def _reader(options: argparse.Namespace, task: Task) -> Read:
    def read(rank: int, processes: int, report: Report, row: int = 0) -> Iterator[dict[str, Any]]:
        found = samples(
            options.train_data_dir, task.images, rank=rank, world=processes, skip=row, threads=4, on_problem=report
        )
        limit = options.max_train_samples
        return found if limit is None else itertools.islice(found, max(0, len(range(rank, limit, processes)) - row))

    return read
