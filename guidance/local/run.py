"""What a local control brings along for a run: a wrapper that tells it where on the image a call looks.

The host crops the latent for a conditioning with an area and does not tell the control where. A hook of the control
(`comfy.hooks`) brings a keyed wrapper for the run, so that no node on the model is needed.
"""

from __future__ import annotations

import functools
from typing import Any

from .. import run_hook
from .view import AREAS, Areas

WRAPPER = "limelight_local"


def hooks() -> Any:
    """A group with the hook, for a control's `extra_hooks`."""
    return run_hook.group_of(_hook())


def sampler_sample(executor, guider, *args, **kwargs):
    """Wrapper of SAMPLER_SAMPLE: takes the hook off the conditionings."""
    for entries in guider.conds.values():
        for cond in entries:
            run_hook.take_off(cond, _hook())
    return executor(guider, *args, **kwargs)


def calc_cond_batch(executor, model, conds, x_in, timestep, model_options):
    """Wrapper of CALC_COND_BATCH: leaves word about areas."""
    height, width = x_in.shape[-2:]
    areas = {}
    for cond in (cond for entries in conds for cond in entries or ()):
        area = cond.get("area")
        if area is not None and len(area) == 4 and "uuid" in cond:
            h, w, y, x = area
            areas[cond["uuid"]] = (min(h, height - y), min(w, width - x), y, x)
    if not areas:
        return executor(model, conds, x_in, timestep, model_options)
    told = {**model_options.get("transformer_options", {}), AREAS: Areas((height, width), areas)}
    return executor(model, conds, x_in, timestep, {**model_options, "transformer_options": told})


@functools.cache
def _hook() -> Any:
    return run_hook.make(WRAPPER, sampler_sample, calc_cond_batch)
