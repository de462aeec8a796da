"""Hooks (`comfy.hooks`) that bring wrappers along for a run, so that no node on the model is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def make(key: str, sampler_sample: Callable, calc_cond_batch: Callable, **options: Any) -> Any:
    """A hook of two wrappers under one key, for the kinds that they are named after. options: other options of the
    transformer. The host registers each hook once a run, so one has to serve for all that need it."""
    import comfy.hooks
    from comfy.patcher_extension import WrappersMP

    wrappers = {
        WrappersMP.SAMPLER_SAMPLE: {key: [sampler_sample]},
        WrappersMP.CALC_COND_BATCH: {key: [calc_cond_batch]},
    }
    return comfy.hooks.TransformerOptionsHook(
        {"wrappers": wrappers, **options}, hook_scope=comfy.hooks.EnumHookScope.AllConditioning
    )


def group_of(hook: Any) -> Any:
    """A new group with this hook alone."""
    import comfy.hooks

    group = comfy.hooks.HookGroup()
    group.add(hook)
    return group


def take_off(cond: dict, hook: Any) -> None:
    """Takes the hook off a conditioning of the run that has no other. It has done its work, and the host joins only
    conditionings of equal hooks and goes back and forth between others."""
    group = cond.get("hooks")
    if group is not None and len(group) == 1 and group.contains(hook):
        del cond["hooks"]
