"""GLIGEN during a run: the schedule, areas, null grounding on the negative. Travels with the conditioning as a hook.

The host hands boxes to GLIGEN once a call, knowing neither the schedule nor, for a conditioning with an area, the whole
image; and it copies the boxes of a positive conditioning to the negative. A hook of the conditioning (`comfy.hooks`)
brings keyed wrappers along for the run that put this right, so that no node on the model is needed.
"""

from __future__ import annotations

import functools
from typing import Any

from .. import run_hook
from ..errors import LimelightError
from .grounding import Grounding, add_residual
from .propagation import REGIONS
from .scenes import NEGATIVE

WRAPPER = "limelight_gligen"


def with_hook(*conditionings: list) -> list[list]:
    """CONDITIONINGs whose grounded entries bring the run's wrappers along."""
    group = run_hook.group_of(_hook())
    combined: dict = {}  # entries that shared their hooks go on sharing them
    return [
        [entry if grounding_of(entry[1]) is None else _with_hooks(entry, group, combined) for entry in conditioning]
        for conditioning in conditionings
    ]


def grounding_of(options: dict) -> Grounding | None:
    """The grounding on a conditioning entry, if this pack put it there."""
    gligen = options.get("gligen")
    return gligen[2] if gligen is not None and isinstance(gligen[2], Grounding) else None


def sampler_sample(executor, guider, *args, **kwargs):
    """Wrapper of SAMPLER_SAMPLE: checks the model, and grounds the negative as in the paper."""
    for name, entries in guider.conds.items():
        for cond in entries:  # the run's own dictionaries; others may hold on to them, so they are changed in place
            grounding = grounding_of(cond)
            if grounding is None:
                continue
            patcher = cond["gligen"][1]
            if not hasattr(patcher.model, "check_fits"):
                raise LimelightError(
                    "gligen_textbox_model: a GLIGENTextBoxApply behind Highlight GLIGEN uses another GLIGEN model. "
                    "Give both the model of this pack's GLIGEN loader."
                )
            patcher.model.check_fits(guider.inner_model.diffusion_model)
            if name in NEGATIVE:
                cond["gligen"] = ("position", patcher, grounding.with_(entries=[]))
            run_hook.take_off(cond, _hook())
    return executor(guider, *args, **kwargs)


def calc_cond_batch(executor, model, conds, x_in, timestep, model_options):
    """Wrapper of CALC_COND_BATCH: leaves grounding out where it is off, and tells it what the model sees."""
    sigma, latent = float(timestep[0]), tuple(x_in.shape[-2:])
    regions = model_options.get("transformer_options", {}).get(REGIONS, {})
    seen = [
        entries and [_at(cond, sigma, latent, model.model_sampling, regions.get(cond.get("uuid"))) for cond in entries]
        for entries in conds
    ]
    return executor(model, seen, x_in, timestep, model_options)


def _at(cond: dict, sigma: float, latent: tuple[int, int], model_sampling: Any, regions: dict | None) -> dict:
    """The conditioning at one noise level. regions: of its highlights, where a guided step lets them grow."""
    grounding = grounding_of(cond)
    if grounding is None:
        return cond
    area = cond.get("area")
    if area is not None:
        h, w, y, x = area
        grounding = grounding.with_(latent=latent, crop=(min(h, latent[0] - y), min(w, latent[1] - x), y, x))
    grounding = grounding.with_(regions=regions)
    nothing_in_sight = len(grounding) > 0 and not grounding.slots(latent)
    if nothing_in_sight or not grounding.is_on(sigma, model_sampling):
        return {key: value for key, value in cond.items() if key != "gligen"}
    return {**cond, "gligen": (*cond["gligen"][:2], grounding)}


@functools.cache
def _hook() -> Any:
    return run_hook.make(WRAPPER, sampler_sample, calc_cond_batch, patches={"attn2_output_patch": [add_residual]})


def _with_hooks(entry: list, group: Any, combined: dict) -> list:
    import comfy.hooks

    return comfy.hooks.set_hooks_for_conditioning([entry], group, append_hooks=True, cache=combined)[0]
