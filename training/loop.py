"""The training loop. It never waits for the device between two lines of the log.

Everything random about a sample follows from its number (see `draws`), so that a run that was killed goes on from its
last checkpoint to the very same weights.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from tqdm import tqdm

from ..guidance.errors import LimelightError
from ..tools.console import say
from . import checkpoints, preview
from .base import Base
from .cache import Cache
from .draws import Draws
from .log import Log
from .state import State, averaged
from .stream import Stream
from .task import Batch, Task

# isort: split
# after .base, which makes torchvision importable
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

WHOLE = DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU  # each process has all the weights
Data = Cache | Stream
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Step(nn.Module):
    """The trained network and its loss as one module, which is what gradients are synchronised around."""

    def __init__(self, task: Task):
        super().__init__()
        self.network = task.network
        self._loss = task.loss

    def forward(self, batch: Batch, draws: Draws) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        losses, told = self._loss(batch, draws)
        return losses.mean(), {"loss": losses.detach().mean(), **told}


def run(
    accelerator: Accelerator,
    task: Task,
    base: Base,
    options: argparse.Namespace,
    data: Data,
    recipe: dict[str, Any],
    found: tuple[Path, dict[str, Any]] | None,
) -> list[Path]:
    """Train from the checkpoint ``found``, or from the start, to the last step; -> the exported files."""
    if accelerator.distributed_type not in WHOLE and options.use_ema:
        raise LimelightError("--use_ema: averages need whole weights in each process. Use DDP, or leave --use_ema.")
    whole = None if accelerator.distributed_type in WHOLE else copy.deepcopy(task.network)
    _make_ready(accelerator, task, base, options)
    if whole is not None and options.validation_steps and accelerator.is_main_process:
        say("no validation: the weights are spread over the processes")
    weights = [one for one in task.network.parameters() if one.requires_grad]
    module, optimizer = accelerator.prepare(Step(task), _optimizer(weights, options, accelerator))
    schedule = _schedule(optimizer, options)
    average = EMAModel(weights, decay=options.ema_decay) if options.use_ema else None
    state = State(accelerator, schedule, average, data)
    step = 0
    if found:
        state.load(found[0])
        step = found[1]["step"]
    if average:
        average.to(accelerator.device)
    main = accelerator.is_main_process
    log = Log(options.output_dir, step) if main else None
    bar = tqdm(total=options.max_train_steps, initial=step, desc=task.name, unit="step", disable=not main)
    meter = _Meter(accelerator, options, recipe["samples_a_step"], log, bar)

    for number, batch in data.feed(step, options.max_train_steps):
        with accelerator.accumulate(module):
            draws = Draws(options.seed, number, accelerator.device)
            loss, told = module(batch, draws)
            accelerator.backward(loss)
            if accelerator.sync_gradients and options.max_grad_norm:
                accelerator.clip_grad_norm_(module.parameters(), options.max_grad_norm)
            optimizer.step()
            meter.add(told, schedule.get_last_lr()[0])
            if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                schedule.step()
                if average:
                    average.step(weights)
            optimizer.zero_grad(set_to_none=True)
        if not accelerator.sync_gradients:
            continue
        step += 1
        last = step == options.max_train_steps
        log_now, save_now, look_now = (
            last or step % every == 0 if every else False
            for every in (options.log_steps, options.checkpointing_steps, options.validation_steps)
        )
        if log_now or save_now or look_now:
            meter.flush(step)
        if save_now:
            limit, wait = options.checkpoints_total_limit, accelerator.wait_for_everyone
            checkpoints.save(options.output_dir, step, state.save, recipe, limit, main, wait)
        if look_now and whole is None:
            if main:
                with averaged(average, weights):
                    _validate(task, base, options, data, accelerator, log, step)
            accelerator.wait_for_everyone()
        meter.restart()
    bar.close()
    files = _exported(accelerator, task, module, options, whole, average, weights)
    if log:
        log.close()
    return files


def _make_ready(accelerator: Accelerator, task: Task, base: Base, options: argparse.Namespace) -> None:
    """The base's UNet on the device and in the precision of the run; gradient checkpointing in both networks."""
    wanted = DTYPES[accelerator.mixed_precision]
    if base.unet.dtype != wanted:
        base.unet.to(wanted)
    base.unet.to(accelerator.device)
    base.unet.to(memory_format=base.layout)
    if options.gradient_checkpointing:
        for part in (task.network, base.unet):
            if hasattr(part, "enable_gradient_checkpointing"):
                part.enable_gradient_checkpointing()
    if plugin := getattr(accelerator.state, "deepspeed_plugin", None):  # which otherwise asks a data loader
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = options.train_batch_size
    task.network.train()


def _schedule(optimizer: torch.optim.Optimizer, options: argparse.Namespace) -> torch.optim.lr_scheduler.LambdaLR:
    """Of the learning rate. It is not prepared by accelerate, which would take a step of it for each process."""
    return get_scheduler(
        options.lr_scheduler,
        optimizer,
        num_warmup_steps=options.lr_warmup_steps,
        num_training_steps=options.max_train_steps,
        num_cycles=options.lr_num_cycles,
        power=options.lr_power,
    )


def _optimizer(
    weights: list[nn.Parameter], options: argparse.Namespace, accelerator: Accelerator
) -> torch.optim.Optimizer:
    more = {}
    if options.use_8bit_adam:
        from bitsandbytes.optim import AdamW8bit as AdamW
    else:
        from torch.optim import AdamW

        # in one pass over the memory; under a scaler it would not tell that it left out a step
        more["fused"] = True if accelerator.distributed_type in WHOLE and accelerator.scaler is None else None
    return AdamW(
        weights,
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=options.adam_weight_decay,
        eps=options.adam_epsilon,
        **more,
    )


class _Meter:
    """Collects the figures of steps on the device and brings them to the log in one go."""

    def __init__(self, accelerator: Accelerator, options: argparse.Namespace, samples: int, log: Log | None, bar: tqdm):
        self.accelerator, self.options, self.samples, self.log, self.bar = accelerator, options, samples, log, bar
        self.waiting: list[tuple[dict[str, torch.Tensor], float]] = []
        self.restart()

    def add(self, told: dict[str, torch.Tensor], rate: float) -> None:
        self.waiting.append((told, rate))

    def restart(self) -> None:
        """The clock, after what is no training."""
        if not self.waiting:
            self.started = time.monotonic()

    def flush(self, step: int) -> None:
        """Write what is waiting, up to this step; with several processes, the means over them."""
        if not self.waiting:
            return
        each = self.options.gradient_accumulation_steps
        names = list(self.waiting[0][0])
        values = torch.stack([torch.stack([told[name].float() for name in names]) for told, _ in self.waiting])
        values = self.accelerator.reduce(values.unflatten(0, (-1, each)).mean(1), "mean").tolist()
        speed = self.samples * len(values) / (time.monotonic() - self.started)
        rates = [rate for _, rate in self.waiting[::each]]
        self.waiting.clear()
        lines = [
            {"step": step - len(values) + 1 + i, **dict(zip(names, one, strict=True)), "lr": rate}
            for i, (one, rate) in enumerate(zip(values, rates, strict=True))
        ]
        if self.log:
            lines[-1]["samples_per_second"] = speed
            self.log.write(*lines)
            self.bar.update(len(lines))
            self.bar.set_postfix(loss=f"{lines[-1]['loss']:.4f}", samples_per_second=f"{speed:.2f}")
        for line in lines:
            if line["loss"] != line["loss"] or abs(line["loss"]) == float("inf"):
                raise LimelightError(
                    f"step {line['step']}: the loss is not a finite number. Lower --learning_rate, or use "
                    "--mixed_precision bf16 instead of fp16; the last checkpoint is from before."
                )


@torch.no_grad()
def _validate(
    task: Task, base: Base, options: argparse.Namespace, data: Data, accelerator: Accelerator, log: Log, step: int
) -> None:
    if not options.num_validation_images:
        return
    batch = data.examples(options.num_validation_images)
    count = len(next(iter(batch.values())))
    empty = data.empty_text(count)
    place = base.vae.device
    base.vae.to(accelerator.device)
    task.network.eval()
    with accelerator.autocast():
        pictures, figures = task.validate(batch, empty, Draws(0, range(count), accelerator.device, "validation"))
    task.network.train()
    base.vae.to(place)
    if pictures:
        say(f"step {step}: {log.picture(preview.sheet(pictures), step)}")
    if figures:
        log.write({"step": step, **figures})


def _exported(
    accelerator: Accelerator,
    task: Task,
    module: nn.Module,
    options: argparse.Namespace,
    whole: nn.Module | None,
    average: EMAModel | None,
    weights: list[nn.Parameter],
) -> list[Path]:
    """Write the trained network; spread weights are brought together first."""
    if whole is not None:
        state = accelerator.get_state_dict(module)
        if accelerator.is_main_process:
            whole.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})
            task.network = whole
    if not accelerator.is_main_process:
        return []
    with averaged(average, weights):
        nn.Module.to(task.network, getattr(torch, options.export_dtype))  # diffusers' own warns of what is meant
        files = task.export(options.output_dir)
    for path in files:
        say(f"wrote {path}")
    return files
