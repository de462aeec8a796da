"""Several local controls as one: regions that overlap are settled, and CoAdapters can be fused.

"sum" adds what they add, as a chain of controls does. "normalise" shares a place out where the masks come to more than
one. "priority" lets the control that was applied last cover those before, as layers do. "max" takes, at each place of
each level, the control that adds most there.
"""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch

from ..errors import LimelightError
from .control import Call, LocalControl, Residuals, added
from .coverage import cells, coverage, feathered
from .fusing import Fusing
from .view import View

POLICIES = ("sum", "max", "normalise", "priority")


class MergedControl(LocalControl):
    """See the module. parts: in the order in which they were applied. fusing: of CoAdapters, or none."""

    def __init__(self, parts: list[LocalControl], policy: str, fusing: Fusing | None = None) -> None:
        super().__init__()
        self.parts, self.policy, self.fusing = [part.copy() for part in parts], policy, fusing
        self.handed: dict[str, torch.Tensor | None] = {}
        self.widths = [part.cond_hint_original.shape[1] for part in parts]
        # hints and masks in one tensor: whoever crops it crops all of them
        self.cond_hint_original = together([part.cond_hint_original for part in parts])

    def copy(self):
        made = super().copy()
        made.parts, made.handed = [part.copy() for part in self.parts], {}
        return made

    def own_models(self) -> list:
        return [model for part in self.parts for model in part.own_models()]

    def get_extra_hooks(self):
        return super().get_extra_hooks() + [hook for part in self.parts for hook in part.get_extra_hooks()]

    def inference_memory_requirements(self, dtype):
        own = sum(part.inference_memory_requirements(dtype) for part in self.parts)
        return own + super().inference_memory_requirements(dtype)

    def move_networks(self, device: Any) -> None:
        for part in self.parts:
            part.move_networks(device)
        if self.fusing is not None:
            self.fusing = self.fusing.copied()

    def set_cond_hint(self, *args, **kwargs):
        raise LimelightError("control_net: merged regions have their hints already. Apply each control before Regions.")

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        for part in self.parts:
            part.pre_run(model, percent_to_timestep_function)

    def cleanup(self):
        super().cleanup()
        self.handed = {}
        for part in self.parts:
            part.cleanup()

    def is_on(self, t: torch.Tensor) -> bool:
        return any(part.is_on(t) for part in self.parts)

    def own(self, view: View, call: Call, masks: torch.Tensor | None = None) -> Residuals | None:
        self._hand_out(call)
        parts = [part for part in self.parts if part.is_on(call.t)]
        settled = self._settled(parts, view, call)
        found = []
        gains = self._gains(parts, view, call, settled)
        for part, own, gain in zip(parts, settled, gains, strict=True):
            if gain is None:
                value = part.own(view, call, own)
            else:
                levels = part.levels(view, call, own, gain)
                value = levels and part.residuals(levels)
            if value is not None:
                found.append(value)
        if not found:
            return None
        if self.policy == "max":
            return _largest(found, len(call.x))
        total = found[0]
        for value in found[1:]:
            total = added(value, total)
        return total

    def _gains(self, parts: list, view: View, call: Call, settled: list) -> list:
        """The fuser's factors for each part; none: it stays as it is. They do not depend on the noise level."""
        fusing = self.fusing
        if fusing is None:
            return [None] * len(parts)
        digests = (part.prepared(view, call).digest for part in parts)
        key = (*digests, *map(id, parts), view, call.x.dtype, str(call.x.device), "gains")
        return self.kept.get(key, lambda: fusing.gains(parts, view, call, settled))

    def _hand_out(self, call: Call) -> None:
        """Gives each part its channels of the hint, and of a tile that was cut for this call."""
        for name, whole in (("cond_hint_original", self.cond_hint_original), ("cond_hint", self.tile(call.x))):
            if whole is self.handed.get(name):
                continue  # the same tensors again: they are known by what they hold
            self.handed[name] = whole
            pieces = [None] * len(self.parts) if whole is None else whole.split(self.widths, 1)
            for part, piece in zip(self.parts, pieces, strict=True):
                setattr(part, name, piece)

    def _settled(self, parts: list[LocalControl], view: View, call: Call) -> list[torch.Tensor | None]:
        """The mask of each part after the policy; none: its own."""
        if self.policy not in ("normalise", "priority"):
            return [None] * len(parts)
        prepared = [part.prepared(view, call) for part in parts]
        key = (*(each.digest for each in prepared), *map(id, parts), view.whole, "settled")
        masks = [torch.ones(1, *each.hint.shape[-2:]) if each.mask is None else each.mask.cpu() for each in prepared]
        return self.kept.get(key, lambda: settle(masks, self.policy))


def mask_of(part: LocalControl) -> torch.Tensor:
    """The mask (K, H, W) of an applied control, feathered; ones where it acts everywhere. On the CPU."""
    packed = part.cond_hint_original
    if part.region.mask is None or not part.region.masks_features:
        return torch.ones(1, *packed.shape[-2:])
    return feathered(packed[:, -1].float().cpu(), part.region.feather)


def together(hints: list[torch.Tensor]) -> torch.Tensor:
    """Hints (N, C, H, W) side by side in channels, all of the largest size. Raises LimelightError for batches that do
    not go together."""
    height, width = max((tuple(hint.shape[-2:]) for hint in hints), key=lambda size: size[0] * size[1])
    count = max(map(len, hints))
    if {len(hint) for hint in hints} - {1, count}:
        found = ", ".join(str(len(hint)) for hint in hints)
        raise LimelightError(
            f"positive: the controls have {found} hints or masks; expected the same number for all, or one."
        )
    same = []
    for hint in hints:
        if hint.shape[-2:] != (height, width):
            hint = comfy.utils.common_upscale(hint.float(), width, height, "nearest-exact", "disabled")
        same.append(hint.float().expand(count, -1, -1, -1))
    return torch.cat(same, 1)


def settle(masks: list[torch.Tensor], policy: str) -> list[torch.Tensor]:
    """Masks (K, H, W) of any sizes -> (max K, H, W) each of the largest size, after a policy."""
    height, width = max((tuple(mask.shape[-2:]) for mask in masks), key=lambda size: size[0] * size[1])
    count = max(map(len, masks))
    same = []
    for mask in masks:
        axes = [cells(1, size) * (of / size) for size, of in zip((height, width), mask.shape[-2:], strict=True)]
        resized = mask if mask.shape[-2:] == (height, width) else coverage(mask, *axes)
        same.append(resized[[i % len(mask) for i in range(count)]])
    stack = torch.stack(same)
    if policy == "normalise":
        stack = stack / stack.sum(0).clamp(min=1)
    elif policy == "priority":
        free = torch.ones_like(stack[0])
        for mask in reversed(list(stack)):
            mask *= free.clone()
            free -= mask
    return list(stack.clamp(0, 1))


def _largest(found: list[Residuals], batch: int) -> Residuals:
    """At each cell of each entry, that of the control with the largest norm over the channels."""
    out: Residuals = {}
    for key in ("input", "middle", "output"):
        lists = [each.get(key) or [] for each in found]
        out[key] = []
        for i in range(max(map(len, lists))):
            values = [each[i] for each in lists if i < len(each) and each[i] is not None]
            out[key].append(_largest_of(values, batch) if len(values) > 1 else values[0] if values else None)
    return out


def _largest_of(values: list[torch.Tensor], batch: int) -> torch.Tensor:
    if len({len(value) for value in values}) > 1:
        values = [value if len(value) == batch else value.expand(batch, *value.shape[1:]) for value in values]
    channels = 1 if values[0].ndim == 4 else -1
    norms = torch.stack([value.float().square().sum(channels, keepdim=True) for value in values])
    best, out = norms.argmax(0), torch.zeros_like(values[0])
    for number, value in enumerate(values):
        out = torch.where(best == number, value, out)
    return out


def parts_of(control: Any) -> tuple[list[LocalControl], list[Any]]:
    """The local controls of a chain in the order in which they were applied, and the others."""
    local: list[LocalControl] = []
    others: list[Any] = []
    while control is not None:
        kind = local if isinstance(control, LocalControl) else others
        kind.insert(0, control)
        control = control.previous_controlnet
    return [part for one in local for part in (one.parts if isinstance(one, MergedControl) else [one])], others


def chained(local: LocalControl, others: list[Any]) -> LocalControl:
    """A control behind copies of others."""
    before = None
    for other in others:
        before = other.copy().set_previous_controlnet(before)
    return local.set_previous_controlnet(before)
