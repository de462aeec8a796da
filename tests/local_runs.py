"""Local controls in tests: making them, calling them as the host does, and running the host's sampler with them."""

from __future__ import annotations

import torch
from guided_runs import conditioning_for, negative_for

ALWAYS = (0.0, 1.0)


def adapter(state: dict, task: str = ""):
    """An AdapterControl with these weights."""
    from limelight.guidance.local.adapter_control import AdapterControl
    from limelight.models.adapter_files import build

    return AdapterControl(build(state, "test"), task)


def region(mask=None, **settings):
    from limelight.guidance.local.region import Region

    return Region(mask, **settings)


def half(side: int = 128) -> torch.Tensor:
    """A mask of the left half."""
    mask = torch.zeros(1, side, side)
    mask[:, :, : side // 2] = 1
    return mask


def hint(height: int, width: int | None = None, channels: int = 3, count: int = 1, seed: int = 3) -> torch.Tensor:
    """(N, C, H, W) in [0, 1]."""
    return torch.rand(count, channels, height, width or height, generator=torch.Generator().manual_seed(seed))


def applied(control, picture: torch.Tensor, strength: float = 1.0, before=None, span=ALWAYS):
    """As the host's Apply node does it."""
    return control.copy().set_cond_hint(picture, strength, span).set_previous_controlnet(before)


def call(control, x: torch.Tensor, chunks: int = 1, sigma: float = 3.0, cond: dict | None = None, **options) -> dict:
    """One `get_control`, in inference mode as in a prompt."""
    with torch.inference_mode():
        return control.get_control(x, torch.full((len(x),), sigma), cond or {}, chunks, options)


def entries(found: dict | None) -> dict[tuple[str, int], torch.Tensor]:
    """The maps by the model's block: lists are read from their ends."""
    return {
        (key, number): value
        for key, values in (found or {}).items()
        for number, value in enumerate(reversed(values))
        if value is not None
    }


def same(a: dict | None, b: dict | None) -> bool:
    """Bit-identical, entry by entry."""
    a, b = entries(a), entries(b)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def close(a: dict | None, b: dict | None, tolerance: float = 1e-4) -> bool:
    a, b = entries(a), entries(b)
    return a.keys() == b.keys() and all((a[key] - b[key]).abs().max() <= tolerance * b[key].abs().max() for key in a)


def prompts(model, control=None, more: list | None = None) -> tuple[list, list]:
    """Positive and negative with a control, as ControlNetApplyAdvanced leaves them. more: entries of the positive."""
    positive = conditioning_for(model)
    negative = negative_for(positive)
    if control is None:
        return positive + (more or []), negative
    options = {"control": control, "control_apply_to_uncond": False}
    added = [[[tensor, {**given, **options}] for tensor, given in each] for each in (positive, negative)]
    return added[0] + (more or []), added[1]


def run(model, positive: list, negative: list, x: torch.Tensor, steps: int = 2) -> torch.Tensor:
    """The host's KSampler from noise x."""
    import comfy.sample

    with torch.inference_mode():
        args = (model, x, steps, 3.0, "euler", "normal", positive, negative, torch.zeros_like(x))
        return comfy.sample.sample(*args, seed=0, disable_pbar=True).clone()


class Watched:
    """What a network is given, call by call: `hints`."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.hints: list[torch.Tensor] = []
        network.register_forward_pre_hook(lambda _, given: self.hints.append(given[0].clone()))
