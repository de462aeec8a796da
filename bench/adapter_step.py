"""What a T2I-Adapter of ours costs a denoising step beside the host's own: SD1.5's shape, random weights, CPU.

    python dev.py bench adapter-step [--count REPEATS] [--seed S] [--out FILE]

Both adapters share one network (full, SD1.5) and compute its features in the first step; what they do in every later
one is timed by itself, as the median of many calls: a step takes seconds, and small differences drown in its noise.
control_ms: processor time of one such call at CFG's batch of two. step_ratio: a step with this control over one with
the host's. host: the host's T2IAdapter. adapter: ours without a mask. adapter-masked: with a mask of half the image,
feathered. adapter-masked-2: two of them, one after the other, over the host's two (host-2).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from ..tools.in_process import import_host
from .guided_step import sample, seconds
from .random_unet import SHAPES, build_model
from .table import arguments, command, write

NAME = "adapter-step"
WIDTHS = (320, 640, 1280, 1280)
CALLS = 30  # of get_control, for each repeat


def controls(seed: int, latent: int, widths: tuple[int, ...] = WIDTHS) -> dict[str, Any]:
    """One control a row, with random weights. widths: channels of the levels."""
    import torch
    from comfy.controlnet import T2IAdapter
    from comfy.t2i_adapter.adapter import Adapter as HostAdapter

    from limelight.guidance.local.adapter_control import AdapterControl, of_host
    from limelight.guidance.local.region import Region

    torch.manual_seed(seed)
    network = HostAdapter(cin=64, channels=list(widths), nums_rb=2, ksize=1, sk=True, use_conv=False, xl=False)
    theirs = T2IAdapter(network, 1, 8, "nearest-exact")
    ours: AdapterControl = of_host(theirs)
    hint, half = torch.rand(1, 1, 8 * latent, 8 * latent), torch.zeros(1, 8 * latent, 8 * latent)
    half[:, :, : 4 * latent] = 1
    masked = ours.with_region(Region(half, feather=32.0))

    def applied(control: Any, before: Any = None) -> Any:
        return control.copy().set_cond_hint(hint, 1.0).set_previous_controlnet(before)

    return {
        "host": applied(theirs),
        "adapter": applied(ours),
        "adapter-masked": applied(masked),
        "host-2": applied(theirs, applied(theirs)),
        "adapter-masked-2": applied(masked, applied(masked)),
    }


def calls(model: Any, chains: dict[str, Any], latent: int) -> dict[str, Callable[[], object]]:
    """One later step's `get_control` a row."""
    import torch

    x, t = torch.randn(2, 4, latent, latent), torch.full((2,), 3.0)
    options = {"cond_or_uncond": [0, 1]}

    def of(control: Any) -> Callable[[], object]:
        control.pre_run(model.model, model.model.model_sampling.percent_to_sigma)

        def call() -> object:
            with torch.inference_mode():
                return control.get_control(x, t, {}, 2, options)

        return call

    return {row: of(control) for row, control in chains.items()}


def main() -> None:
    options = arguments(NAME, __doc__.splitlines()[0], count=3)
    import_host()
    shape = SHAPES["sd15"]
    model = build_model(shape, options.seed)
    each = seconds(calls(model, controls(options.seed, shape.latent), shape.latent), options.count * CALLS)
    plain = statistics.median(sample(shape, model, options.seed, options.count + 1)[1:])  # the first one warms up
    rows = []
    for row, own in each.items():
        base = each["host-2" if row.endswith("-2") else "host"]
        rows.append({"row": row, "control_ms": 1000 * own, "step_ratio": (plain + own) / (plain + base)})
    write(NAME, rows, command(NAME, options.count, options.seed), options.out, clock="process CPU time", step_s=plain)


if __name__ == "__main__":
    main()
