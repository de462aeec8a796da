"""How fast our trainers are beside diffusers' example programs: shapeworld, float32, one CPU thread.

    python dev.py bench training [--count STEPS] [--seed S] [--out FILE]

Each trainer runs with its published preset, and beside it the loop of `training_examples` that corresponds to it: the
same base, data, batch and number of threads, two processes that take their steps by turns. What is timed is processor
time from one step to the next, the median over --count steps; reading weights and libraries, the first steps and the
saving at the end are not in it.

samples_per_second, example_samples_per_second: of ours and of the example. throughput_ratio: ours over the example's.
peak_memory_ratio: peak resident memory of the process, ours over the example's; libraries, weights, the saving at the
end and, of ours, the making of the cache are in it.

What ours gains comes in good part from encoding pictures and captions once. That is not in the ratio, the cache is
there before timing starts. cache_s_per_sample is what it costs: processor time for each picture of the data, with all
its crops; cache_epochs: how many epochs later it has paid off.

The row local-adapter is the preset paper, with its loss of edges, which the example lacks. Details, not in the README:
"local-adapter default", our own losses, with a second pass of the UNet for every second sample; "local-adapter
example", the preset paper beside the example as it is, which also computes gradients of all the UNet's weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..tools.in_process import host_path
from .guided_step import peak_bytes
from .table import arguments, command, write

NAME = "training"
BATCH, SIDE, SAMPLES = 8, 128, 32
WARM = 2  # first steps that are not timed
TRAINER, EXAMPLE = SIDES = "trainer", "example"
TOLD = "told: "  # what lines for the parent process begin with
ROWS: dict[str, tuple[str, ...]] = {  # what each trainer is given more
    "saliency-controlnet": ("--preset", "gazefusion"),
    "salient-inpaint-controlnet": ("--preset", "yahoo"),
    "salient-controlnet": ("--preset", "yahoo"),
    "local-adapter": ("--preset", "paper"),
    "local-adapter default": ("--no-random_flip",),
    "local-adapter example": ("--preset", "paper"),
}


def write_bases(folder: Path) -> None:
    """Shapeworld and its inpainting model, as folders of diffusers."""
    from ..shapeworld.export import write_diffusers
    from ..shapeworld.nodes import WEIGHTS

    write_diffusers(WEIGHTS, folder / "base", host_path())
    write_diffusers(WEIGHTS, folder / "inpaint", host_path(), WEIGHTS.with_stem(f"{WEIGHTS.stem}_inpaint"))


def write_data(folder: Path, seed: int) -> None:
    """Scenes as an imagefolder that all trainers can read."""
    from PIL import Image

    from ..guidance.saliency.maps import blur
    from ..shapeworld import datasets

    data, lines = folder / "data", []
    data.mkdir()
    both = (datasets.samples(kind, SAMPLES, seed, SIDE) for kind in ("salient", "local"))
    for sample, same in zip(*both, strict=True):
        mask = np.asarray(sample["mask"]).astype(np.float32) / 255
        made = {
            "image": sample["image"],
            "mask": sample["mask"],
            "hint": same["hint"],
            "saliency": Image.fromarray(np.uint8(255 * blur(mask, SIDE / 16))),
            "object": Image.fromarray(np.uint8(mask[..., None] * np.asarray(sample["image"]))),
        }
        line = {"text": sample["text"]}
        for name, image in made.items():
            column = "file_name" if name == "image" else f"{name}_file_name"
            line[column] = f"{sample['key']}.{name}.png"
            image.save(data / line[column])
        lines.append(json.dumps(line))
    (data / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def trainer(row: str) -> tuple[Any, Any]:
    """-> the class of the row's task, and the function that reads its command line."""
    from ..training import train_local_adapter as local
    from ..training import train_saliency_controlnet as saliency
    from ..training import train_salient_controlnet as salient
    from ..training import train_salient_inpaint_controlnet as inpaint

    found = (
        (saliency.SaliencyControlNet, saliency.arguments),
        (inpaint.SalientInpaintControlNet, inpaint.arguments),
        (salient.SalientControlNet, salient.arguments),
        (local.LocalAdapter, local.arguments),
    )
    return next(pair for pair in found if pair[0].name == row.split()[0])


def train(row: str, side: str, folder: Path, steps: int, seed: int, wait: Callable[..., None]) -> Any:
    """One training in this process; `wait` is called before each step. -> the network."""
    import torch

    torch.set_num_threads(1)
    name = row.split()[0]
    base, data = folder / ("inpaint" if "inpaint" in name else "base"), folder / "data"
    output = Path(tempfile.mkdtemp(dir=folder))
    if side == EXAMPLE:
        from . import training_examples

        frozen = row != "local-adapter example"
        return training_examples.run(name, base, data, output, steps, BATCH, SIDE, seed, frozen, wait)
    from ..training import run
    from ..training.base import load

    make, parse = trainer(row)
    given = ["--pretrained_model_name_or_path", str(base), "--train_data_dir", str(data)]
    given += ["--output_dir", str(output), "--cache_dir", str(folder / "cache"), *ROWS[row]]
    given += ["--max_train_steps", str(steps), "--train_batch_size", str(BATCH), "--resolution", str(SIDE)]
    given += ["--gradient_accumulation_steps", "1", "--max_grad_norm", "1", "--validation_steps", "0"]
    options = parse([*given, "--seed", str(seed)])
    loaded = load(base)
    task = make(loaded, options)
    task.network.register_forward_pre_hook(lambda *_: wait())
    run.train(task, loaded, options)
    return task.network


def train_by_steps(row: str, side: str, folder: Path, steps: int, seed: int) -> None:
    """`train`, which before each step prints how many processor seconds it took since the step before, and waits for a
    line; at the end it prints its peak memory."""
    since = 0.0

    def wait() -> None:
        nonlocal since
        tell(time.process_time() - since)
        sys.stdin.readline()
        since = time.process_time()

    train(row, side, folder, steps, seed, wait)
    tell(peak_bytes())


def tell(value: float) -> None:
    print(f"{TOLD}{json.dumps(value)}", flush=True)


class Training:
    """`train_by_steps` in a process of its own, without a GPU, which goes as far as its first step."""

    def __init__(self, row: str, side: str, folder: Path, steps: int, seed: int):
        self.title = f"{row}, {side}"
        program = [sys.executable, "-m", "limelight.bench.training", "--only", row, side, "--folder", str(folder)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [*program, "--count", str(steps), "--seed", str(seed)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def go_on(self) -> float:
        """Take a step. -> its processor time, or after the last one the peak memory, in bytes."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.told()

    def told(self) -> float:
        """What the process tells next; at first, the processor time up to the first step."""
        for line in self._process.stdout:
            if line.startswith(TOLD):
                return json.loads(line.removeprefix(TOLD))
        self._errors.seek(0)
        raise RuntimeError(f"{self.title}: {self._errors.read()[-2000:]}")


def measure(row: str, folder: Path, count: int, seed: int) -> dict[str, Any]:
    """-> the row of the table."""
    # the last step is part of the saving, and not timed
    steps = WARM + count
    both = {EXAMPLE: Training(row, EXAMPLE, folder, steps + 1, seed)}
    first = Training(row, TRAINER, folder, 1, seed)  # it fills the cache
    cold, peaks = first.told(), {TRAINER: first.go_on()}
    both[TRAINER] = Training(row, TRAINER, folder, steps + 1, seed)
    started = {side: training.told() for side, training in both.items()}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in tqdm(range(steps), desc=row, unit="step"):
        for side, training in both.items():
            times[side].append(training.go_on())
    for side, training in both.items():
        peaks[side] = max(peaks.get(side, 0), training.go_on())
    each = {side: statistics.median(times[side][WARM:]) / BATCH for side in SIDES}
    found = {
        "row": row,
        "throughput_ratio": each[EXAMPLE] / each[TRAINER],
        "peak_memory_ratio": peaks[TRAINER] / peaks[EXAMPLE],
        "samples_per_second": 1 / each[TRAINER],
        "example_samples_per_second": 1 / each[EXAMPLE],
    }
    if " " in row:  # its cache may be that of the row before
        return found
    cache, gain = (cold - started[TRAINER]) / SAMPLES, each[EXAMPLE] - each[TRAINER]
    return found | {"cache_s_per_sample": cache, "cache_epochs": cache / gain if gain > 0 else None}


def main() -> None:
    """The command line."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS), help="(default: all)")
        parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
        parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)

    args = arguments(NAME, __doc__.splitlines()[0], count=12, add=more)
    if args.only:
        train_by_steps(*args.only, args.folder, args.count, args.seed)
        return
    rows = [{"row": "diffusers", "throughput_ratio": 1.0, "peak_memory_ratio": 1.0}]
    with tempfile.TemporaryDirectory() as made:
        write_bases(Path(made))
        write_data(Path(made), args.seed)
        rows += [measure(row, Path(made), args.count, args.seed) for row in args.rows]
    settings = {"threads": 1, "batch": BATCH, "resolution": SIDE, "clock": "process CPU time"}
    write(NAME, rows, command(NAME, args.count, args.seed), args.out, **settings)


if __name__ == "__main__":
    main()
