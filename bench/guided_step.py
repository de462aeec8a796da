"""What a guided step costs on a UNet of SD1.5's shape (random weights, 512x512, CPU), as ratios within one process.

step_ratio: one guidance iteration (forward of the positive conditioning up to the last map, losses, backward) divided
by one denoising step with CFG (a forward of batch 2), in CPU time of the process, median over interleaved repeats.
peak_memory_ratio: peak resident memory of a process that samples one guided step, divided by that of a process that
samples one plain step; libraries and weights (float32) are in both. All rows use PyTorch's fused attention, the host's
choice on GPUs: its choice on CPUs is slower and would flatter the guided pass.

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

from ..guidance.capture import differentiable
from ..tools.in_process import import_host
from .table import arguments, command, write

SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
}
LATENT = 64
SIGMA = 5.0
FUSED = {"optimized_attention_override": differentiable}
ROWS = ("plain", "limelight", "naive")
HIGHLIGHTS = {
    "version": 1,
    "text_tokens": [1, 2, 3, 4, 5, 6, 7],
    "highlights": [
        {
            "phrase": phrase,
            "tokens": tokens,
            "strength": 1.0,
            "instances": [{"shapes": [{"type": "stroke", "points": points, "width": 0.1}]}],
        }
        for phrase, tokens, points in (
            ("red circle", [2, 3], [[0.2, 0.2], [0.4, 0.3]]),
            ("blue bar", [6, 7], [[0.6, 0.8], [0.9, 0.6]]),
        )
    ],
}


def build_model(seed: int):
    """A ModelPatcher around a UNet of SD1.5's shape with random weights, loaded the way the host loads them."""
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    config = comfy.supported_models.SD15(dict(SD15))
    config.set_inference_dtype(torch.float32, None)
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        model = config.get_model({}, "", device=torch.device("cpu"))
        for parameter in model.diffusion_model.parameters():
            if parameter.ndim > 1:  # variance 1 / fan-in
                bound = (3 / parameter[0].numel()) ** 0.5
                parameter.data.uniform_(-bound, bound, generator=generator)
            else:
                parameter.data.fill_(1.0 if parameter.ndim else 0.0)
    device = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)
    patcher.model_options["transformer_options"].update(FUSED)
    return patcher


def conditionings(seed: int) -> tuple[list, list]:
    """Random positive (with highlights) and negative conditioning."""
    import torch

    generator = torch.Generator().manual_seed(seed + 1)
    positive, negative = (torch.randn(1, 77, 768, generator=generator) for _ in range(2))
    return [[positive, {"limelight_highlights": HIGHLIGHTS}]], [[negative, {}]]


def naive_method(loss):
    """-> (method, capture) of the published way."""
    from limelight.guidance.architectures import unet
    from limelight.guidance.capture import Capture
    from limelight.guidance.limelight import Limelight

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
        return loss(maps, targets, text_tokens) * (maps.shape[1] <= LATENT // 4)

    class Naive(Limelight):
        def layout(self, network, height, width):
            return unet.all_blocks(network, height, width)

    return Naive(stop_at=0.0, loss=coarse), Everything


def looks(model, seed: int) -> dict:
    """-> one function a row: the work whose time is compared."""
    import comfy.model_management
    import comfy.samplers
    import torch

    from limelight.guidance.capture import Capture
    from limelight.guidance.limelight import Limelight
    from limelight.guidance.losses import placement_loss
    from limelight.guidance.probe import Probe, differentiable_model
    from limelight.guidance.scenes import scenes

    x = torch.randn(1, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(seed + 2)) * SIGMA
    sigma = torch.tensor([SIGMA])
    positive, negative = conditionings(seed)
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

    found = scenes(guider.conds, (LATENT, LATENT), 1.0)

    def look(method, capture):
        probe = Probe(model.model.diffusion_model, found, method, capture=capture)

        def run():
            with differentiable_model(guider, found):
                assert probe.look(guider, x, sigma, options, 0.0).gradient is not None

        return run

    ours = Limelight(stop_at=0.0)
    return {"plain": plain, "limelight": look(ours, Capture), "naive": look(*naive_method(placement_loss))}


def step_ratios(repeats: int, seed: int) -> dict[str, float]:
    """Median CPU time of each row's work over that of `plain`; repeats are interleaved."""
    functions = looks(build_model(seed), seed)
    times = {row: [] for row in functions}
    for repeat in range(-1, repeats):  # the first round warms up
        for row, function in functions.items():
            started = time.process_time()
            function()
            if repeat >= 0:
                times[row].append(time.process_time() - started)
            print(f"  {row}: {time.process_time() - started:.1f} s", file=sys.stderr, flush=True)
    return {row: statistics.median(times[row]) / statistics.median(times["plain"]) for row in times}


def peak_memory(row: str, seed: int) -> int:
    """Peak resident bytes of a process of its own that samples one step (and one guidance iteration)."""
    arguments = [sys.executable, "-m", "limelight.bench.guided_step", "--only", row, "--seed", str(seed)]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])["peak_bytes"]


def sample_once(row: str, seed: int) -> int:
    """One sampling step through the host's sampler. -> peak resident bytes of this process."""
    import comfy.sample
    import torch

    from limelight.guidance.limelight import Limelight
    from limelight.guidance.step import attach

    model = build_model(seed)
    if row == "limelight":
        model = attach(model, Limelight(updates=1, stop_at=0.0), end_percent=1.0)
    functions = looks(model, seed) if row == "naive" else {}
    positive, negative = conditionings(seed)
    noise = torch.randn(1, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(seed))
    latent = torch.zeros_like(noise)
    with torch.inference_mode():
        if row == "naive":
            functions["naive"]()
        comfy.sample.sample(model, noise, 1, 7.5, "euler", "normal", positive, negative, latent, disable_pbar=True)
    return _peak_bytes()


def _peak_bytes() -> int:
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
        parser.add_argument("--only", choices=ROWS, help=argparse.SUPPRESS)

    args = arguments("guided-step", __doc__.splitlines()[0], count=3, add=options)
    import_host()
    if args.only:
        print(json.dumps({"peak_bytes": sample_once(args.only, args.seed)}))
        return
    peaks = {row: peak_memory(row, args.seed) for row in ROWS}
    ratios = step_ratios(args.count, args.seed)
    rows = [
        {
            "row": row,
            "step_ratio": ratios[row],
            "peak_memory_ratio": peaks[row] / peaks["plain"],
            "peak_gib": peaks[row] / 2**30,
        }
        for row in ROWS
    ]
    write("guided-step", rows, command("guided-step", args.count, args.seed), args.out, clock="process CPU time")


if __name__ == "__main__":
    main()
