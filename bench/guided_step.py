"""What a guided step costs on a UNet of SD1.5's shape (random weights, 512x512, CPU), as ratios within one process.

    python dev.py bench guided-step [--shape sd15 | sdxl] [--count REPEATS] [--seed S] [--out FILE]

step_ratio: one guidance iteration (forward of the positive conditioning up to the last map, losses, backward) divided
by one denoising step with CFG (a forward of batch 2), in CPU time of the process, median over interleaved repeats;
for `bias`, which costs no pass of its own, one biased denoising step divided by a plain one. run_ratio: a whole run of
50 steps with the defaults divided by 50 of its own unguided steps.
peak_memory_ratio: peak resident memory of a process that samples one guided step, divided by that of a process that
samples one plain step; libraries and weights (float32) are in both. All rows use PyTorch's fused attention, the host's
choice on GPUs: its choice on CPUs is slower and would flatter the guided pass.

--shape sdxl: peak memory alone, at 1024x1024 with weights in bfloat16.

`naive` is the guidance that published code does: the whole forward, explicit attention probabilities of every
cross-attention, for every head, all of them kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from ..tools.in_process import import_host
from .random_unet import FUSED, SHAPES, Shape, build_model, conditionings
from .table import arguments, command, write

NAME = "guided-step"
SIGMA = 5.0
ROWS = ("plain", "limelight", "bias", "naive")
RUN_STEPS = 50


def naive_method(shape: Shape, loss):
    """-> (method, capture) of the published way."""
    from limelight.guidance.attention.architectures import unet
    from limelight.guidance.attention.capture import Capture
    from limelight.guidance.attention.limelight import Limelight

    class Everything(Capture):
        """All heads' probabilities of every cross-attention, and no early way out."""

        def cross_patch(self, key, previous, stop):
            def patch(q, k, v, extra):
                q, k, v = (t.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2) for t in (q, k, v))
                maps = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
                self.seen.cross[key] = maps.mean(1).unflatten(1, tuple(extra["activations_shape"][-2:]))
                return (maps @ v).transpose(1, 2).flatten(2)

            return patch

    def coarse(maps, targets, text_tokens):
        return loss(maps, targets, text_tokens) * (maps.shape[1] <= shape.latent // 4)

    class Naive(Limelight):
        def layout(self, network, height, width):
            return unet.all_blocks(network, height, width)

    return Naive(stop_at=0.0, loss=coarse), Everything


def looks(shape: Shape, model, seed: int) -> dict:
    """-> one function a row: the work whose time is compared."""
    import comfy.model_management
    import comfy.samplers
    import torch

    from limelight.guidance.attention.capture import Capture
    from limelight.guidance.attention.limelight import Limelight
    from limelight.guidance.attention.losses import placement_loss
    from limelight.guidance.attention.probe import Probe, differentiable_model
    from limelight.guidance.attention.scenes import scenes

    x = torch.randn(1, 4, shape.latent, shape.latent, generator=torch.Generator().manual_seed(seed + 2)) * SIGMA
    sigma = torch.tensor([SIGMA])
    positive, negative = conditionings(shape, seed)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.conds = {name: [dict(c) for c in entries] for name, entries in guider.original_conds.items()}
    comfy.model_management.load_models_gpu([model])
    model.pre_run()
    guider.inner_model = model.model
    guider.conds = comfy.samplers.process_conds(model.model, x, guider.conds, x.device, x, None, seed)
    options = {"transformer_options": dict(FUSED)}

    def plain():
        with torch.inference_mode():
            both = [guider.conds["positive"], guider.conds["negative"]]
            comfy.samplers.calc_cond_batch(model.model, both, x, sigma, options)

    found = scenes(guider.conds, (shape.latent, shape.latent), 1.0)

    def look(method, capture):
        probe = Probe(model.model.diffusion_model, found, method, capture=capture)

        def run():
            with differentiable_model(guider, [scene.cond for scene in found]):
                assert probe.look(guider, x, sigma, options, 0.0).gradient is not None

        return run

    ours = Limelight(stop_at=0.0)
    return {"plain": plain, "limelight": look(ours, Capture), "naive": look(*naive_method(shape, placement_loss))}


def step_ratios(shape: Shape, repeats: int, seed: int) -> dict[str, float]:
    """Median CPU time of each row's work over that of a plain step; repeats are interleaved."""
    from limelight.guidance.attention import bias

    model = build_model(shape, seed)
    leaning = bias.attach(model, end_percent=1.0)
    ratios = _ratios(repeats, looks(shape, model, seed))
    steps = {"plain": model, "bias": leaning}  # through the sampler, which puts away what the looks need
    return ratios | _ratios(repeats, {row: partial(sample, shape, one, seed, 1) for row, one in steps.items()})


def _ratios(repeats: int, functions: dict[str, Callable]) -> dict[str, float]:
    def tell(row: str, took: float) -> None:
        print(f"  {row}: {took:.1f} s", file=sys.stderr, flush=True)

    each = seconds(functions, repeats, tell)
    return {row: own / each["plain"] for row, own in each.items()}


def seconds(
    functions: dict[str, Callable[[], object]], repeats: int, tell: Callable[[str, float], None] | None = None
) -> dict[str, float]:
    """Median processor time of each; interleaved, after a first round that warms up. tell: of each call's."""
    times: dict[str, list[float]] = {row: [] for row in functions}
    for repeat in range(-1, repeats):
        for row, function in functions.items():
            started = time.process_time()
            function()
            took = time.process_time() - started
            if repeat >= 0:
                times[row].append(took)
            if tell is not None:
                tell(row, took)
    return {row: statistics.median(each) for row, each in times.items()}


def peak_memory(shape: str, row: str, seed: int) -> int:
    """Peak resident bytes of a process of its own that samples one step (and one guidance iteration)."""
    program = [sys.executable, "-m", "limelight.bench.guided_step"]
    options = ["--shape", shape, "--only", row, "--seed", str(seed)]
    output = subprocess.run([*program, *options], check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])["peak_bytes"]


def sample_once(shape: Shape, row: str, seed: int) -> int:
    """One sampling step through the host's sampler. -> peak resident bytes of this process."""
    import torch

    from limelight.guidance.attention import bias
    from limelight.guidance.attention.limelight import Limelight
    from limelight.guidance.attention.step import attach

    model = build_model(shape, seed)
    if row == "limelight":
        model = attach(model, Limelight(updates=1, stop_at=0.0), end_percent=1.0)
    elif row == "bias":
        model = bias.attach(model, end_percent=1.0)
    functions = looks(shape, model, seed) if row == "naive" else {}
    with torch.inference_mode():
        if row == "naive":
            functions["naive"]()
    sample(shape, model, seed, steps=1)
    return peak_bytes()


def sample(shape: Shape, model, seed: int, steps: int) -> list[float]:
    """A run of the host's sampler. -> CPU seconds of each step; the first one's include what comes before it."""
    import comfy.sample
    import torch

    positive, negative = conditionings(shape, seed)
    noise = torch.randn(1, 4, shape.latent, shape.latent, generator=torch.Generator().manual_seed(seed))
    clock = [time.process_time()]

    def stepped(*_: object) -> None:
        clock.append(time.process_time())

    settings = {"callback": stepped, "disable_pbar": True}
    latent = torch.zeros_like(noise)
    with torch.inference_mode():
        comfy.sample.sample(model, noise, steps, 7.5, "euler", "normal", positive, negative, latent, **settings)
    return [after - before for before, after in pairwise(clock)]


def run_ratio(shape: Shape, seed: int, steps: int = RUN_STEPS) -> float:
    """CPU time of a run with guidance's defaults over that of as many plain steps, by the median of its own last third,
    which is not guided."""
    from limelight.guidance.attention.step import attach

    times = sample(shape, attach(build_model(shape, seed)), seed, steps)
    return sum(times) / (steps * statistics.median(times[-steps // 3 :]))


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    import psutil

    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return memory.peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """The command line."""

    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--shape", choices=SHAPES, default="sd15", help="(default %(default)s)")
        parser.add_argument("--only", choices=ROWS, help=argparse.SUPPRESS)

    args = arguments(NAME, __doc__.splitlines()[0], count=3, add=options)
    shape = SHAPES[args.shape]
    import_host()
    if args.only:
        print(json.dumps({"peak_bytes": sample_once(shape, args.only, args.seed)}))
        return
    again = command(NAME, args.count, args.seed)
    if args.shape == "sdxl":
        peaks = {row: peak_memory(args.shape, row, args.seed) for row in ("plain", "limelight", "bias")}
        out = args.out.with_stem(f"{NAME}-sdxl") if args.out.stem == NAME else args.out
        write(f"{NAME}-sdxl", [_memory(row, peaks) for row in peaks], f"{again} --shape sdxl", out)
        return
    peaks = {row: peak_memory(args.shape, row, args.seed) for row in ROWS}
    ratios = step_ratios(shape, args.count, args.seed)
    runs = {"plain": 1.0, "limelight": run_ratio(shape, args.seed)}
    rows = [{**_memory(row, peaks), "step_ratio": ratios[row], "run_ratio": runs.get(row)} for row in ROWS]
    write(NAME, rows, again, args.out, clock="process CPU time")


def _memory(row: str, peaks: dict[str, int]) -> dict:
    return {"row": row, "peak_memory_ratio": peaks[row] / peaks["plain"], "peak_gib": peaks[row] / 2**30}


if __name__ == "__main__":
    main()
