"""A T2I-Adapter as a local control.

M (F(c) - b F(blank)), level by level: F is computed once for each part of each hint and kept; the mask M counts for
what share of each cell it covers. Without a mask it is what the host's own class does, bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from ...models.adapter import Adapter
from ..errors import LimelightError
from . import places
from .control import Call, LocalControl, Prepared, Residuals
from .coverage import coverage
from .view import Part, View, cuts, pixels

Row = tuple[Part, int]  # which part of which hint a row of the batch needs
Gains = Callable[[list[torch.Tensor]], list[torch.Tensor]]


class AdapterControl(LocalControl):
    """See the module. task: the kind of hint, for a fuser of CoAdapters ("canny"), or "". where: what the mask was put
    on in its training, one of `region.WHERE`, if that is known."""

    def __init__(self, network: Adapter, task: str = "", where: str | None = None) -> None:
        super().__init__()
        self.trained_where = where or self.trained_where
        self.patcher = patcher(network)
        self.task = task
        self.places = places.standard(network.form)

    @property
    def network(self) -> Adapter:
        return self.patcher.model

    def own_models(self) -> list:
        return [self.patcher]

    def move_networks(self, device: Any) -> None:
        self.patcher = patcher(copy.deepcopy(self.network), device)

    def auto_halo(self) -> float:
        """As far as the second level sees."""
        return self.network.form.reach[min(1, len(self.network.form.reach) - 1)]

    def check_hint(self, hint: torch.Tensor) -> None:
        wanted = self.network.form.hint_channels
        if wanted != 1 and hint.shape[1] != wanted:
            raise LimelightError(
                f"image: the adapter takes a hint of {wanted} channels, and this image has {hint.shape[1]}. Use an "
                "image without transparency."
            )

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.places = places.in_network(self.network.form, model.diffusion_model)

    def own(self, view: View, call: Call, masks: torch.Tensor | None = None) -> Residuals | None:
        found = self.levels(view, call, masks)
        return found if found is None else self.residuals(found)

    def residuals(self, levels: list[torch.Tensor]) -> Residuals:
        """One map a level, in the lists that the model takes."""
        listed: list = [None] * self.places.length
        for place, value in zip(self.places.blocks, levels, strict=False):
            listed[place] = value
        return {"input": listed[::-1], "middle": levels[len(self.places.blocks) :]}

    def levels(
        self, view: View, call: Call, masks: torch.Tensor | None = None, gains: list[torch.Tensor] | None = None
    ) -> list[torch.Tensor] | None:
        """What is added at each level: (1 or B, C, h, w) each. None: nothing.

        gains: (1 or B, C, 1, 1) for each level, factors of the features.
        """
        factor, multiplier = self.strength * self.factor(call), self.multipliers(call)
        if factor == 0 or (isinstance(multiplier, float) and multiplier == 0):
            return None
        prepared = self.prepared(view, call)
        covered = self.covered(view, call, prepared, masks)
        if covered == []:
            return None
        features = self.features(view, call, prepared)
        out = []
        for level, feature in enumerate(features):
            scale = factor * self.region.levels[min(level, len(self.region.levels) - 1)] * multiplier
            if covered is not None:
                scale = covered[level] * scale
            if gains is not None:
                feature = feature * gains[level]
            out.append(feature * scale)
        return out

    def features(self, view: View, call: Call, prepared: Prepared) -> list[torch.Tensor]:
        """F(c) - b F(blank) of each level: (1 or B, C, h, w)."""
        wanted = rows(view, len(prepared.hint))
        stem = (prepared.digest, view.whole, call.x.dtype, str(call.x.device))
        keys = {row: (*stem, row) for row in wanted}
        together = keys[wanted[0]] if len(wanted) == 1 else (*stem, tuple(wanted))
        if together not in self.kept:
            missing = [row for row, key in keys.items() if key not in self.kept]
            if missing:
                hints = torch.cat([self._hint(prepared.hint, view, *row) for row in missing]).to(call.x.device)
                found = self._run(hints.to(call.x.dtype), stem)
                for number, row in enumerate(missing):
                    self.kept.put(keys[row], [level[number : number + 1] for level in found])
            if len(wanted) > 1:
                each = [self.kept.get(keys[row]) for row in wanted]
                self.kept.put(together, [torch.cat(levels) for levels in zip(*each, strict=True)])
            self.kept.trim({together, *keys.values()})
        return self.kept.get(together)

    def covered(
        self, view: View, call: Call, prepared: Prepared, masks: torch.Tensor | None
    ) -> list[torch.Tensor] | None:
        """The region's share of each cell, level by level: (1 or B, 1, h, w) each. None: everywhere; []: nowhere."""
        digest = prepared.digest
        if masks is None:
            masks = prepared.mask
        elif masks is not None:
            digest = self.kept.digest(masks)
        if masks is None:
            return None
        wanted = rows(view, len(masks))
        form, ratio = self.network.form, self.ratio()
        cut = cuts(tuple(masks.shape[-2:]), self._frame(view))

        def cover(row: Row, stride: int) -> torch.Tensor:
            part, frame = row
            axes = [
                pixels(place, whole, source, away, stride, ratio, form.unshuffle)
                for place, whole, source, away in zip(
                    ((part.top, part.height), (part.left, part.width)), view.whole, masks.shape[-2:], cut, strict=True
                )
            ]
            return coverage(masks[frame : frame + 1], *axes)[:, None]

        def make() -> list[torch.Tensor]:
            found = [torch.cat([cover(row, stride) for row in wanted]) for stride in form.strides]
            return [mask.to(call.x) for mask in found] if any(mask.any() for mask in found) else []

        return self.kept.get((digest, view.whole, call.x.dtype, str(call.x.device), "covered", tuple(wanted)), make)

    def _frame(self, view: View) -> tuple[int, int]:
        """Size to whose aspect hint and mask are cut."""
        ratio = self.ratio()
        size = view.whole[0] * ratio, view.whole[1] * ratio
        return size if view.crops else self._stretched(size)

    def _stretched(self, size: tuple[int, int]) -> tuple[int, int]:
        unit = self.network.form.unshuffle
        height, width = (math.ceil(side / unit) * unit for side in size)
        return height, width

    def _hint(self, hint: torch.Tensor, view: View, part: Part, frame: int) -> torch.Tensor:
        """(1, C, H, W) as the network takes it: as the host makes it, and for a part of the image its cut-out."""
        one, ratio = hint[frame : frame + 1], self.ratio()
        size = self._stretched((part.height * ratio, part.width * ratio))
        if view.crops:
            height, width = (side * ratio for side in view.whole)
            whole = comfy.utils.common_upscale(one, width, height, self.upscale_algorithm, "center")
            one = whole[:, :, part.top * ratio :, part.left * ratio :][
                :, :, : part.height * ratio, : part.width * ratio
            ]
        one = comfy.utils.common_upscale(one, size[1], size[0], self.upscale_algorithm, "center").float()
        return one.mean(1, keepdim=True) if self.network.form.hint_channels == 1 and one.shape[1] > 1 else one

    def _run(self, hints: torch.Tensor, stem: tuple) -> list[torch.Tensor]:
        found = self.network(hints)
        if self.region.blank == 0:
            return found
        # a blank hint is the same for every part and frame
        blank = self.kept.get(
            (*stem, "blank", tuple(hints.shape[-2:])),
            lambda: self.network(torch.full_like(hints[:1], self.region.fill)),
        )
        return [level - self.region.blank * empty for level, empty in zip(found, blank, strict=True)]


def rows(view: View, count: int) -> list[Row]:
    """What the rows of a batch need of `count` hints, which repeat; a single entry if all need the same."""
    wanted = [(part, frame % count) for part in view.parts for frame in view.frames]
    return wanted[:1] if len({*wanted}) == 1 else wanted


def patcher(network: torch.nn.Module, device: Any = None) -> Any:
    """The network for the host's memory management."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    device = comfy.model_management.get_torch_device() if device is None else device
    return kind(network, load_device=device, offload_device=comfy.model_management.unet_offload_device())


def of_host(control: Any) -> AdapterControl | None:
    """The host's own T2IAdapter as one of ours, sharing its weights. None: it is something else."""
    from comfy.controlnet import T2IAdapter

    from ...models.adapter_files import INPUT, KINDS, build

    network: Any = getattr(control, "t2i_model", None)
    if not isinstance(control, T2IAdapter) or not hasattr(network, "unshuffle_amount"):
        return None
    return AdapterControl(build(network.state_dict(), INPUT, KINDS[2] if network.xl else KINDS[1]))
