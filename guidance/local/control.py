"""The CONTROL_NET of this pack: what all local controls have in common.

It derives from the host's ControlBase, not from its T2IAdapter: other packs turn those into classes of their own and
would lose the mask. Everything that the host does with a control works: its Apply nodes, chains, copies, time ranges.
"""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import comfy.controlnet
import numpy as np
import torch

from . import run
from .coverage import feathered, surroundings
from .region import AUTO, WHERE, Region, packed
from .view import Part, View, cuts

LATENT_CELL = 8  # pixels of an image to a latent cell, but for a few models
_MEMORY = 512 * 2**20  # bytes of features that are kept
Residuals = dict[str, list[torch.Tensor | None]]


class LocalControl(comfy.controlnet.ControlBase):
    """A control with a region. Its hint holds the mask as the last channel, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.region = Region()
        self.trained_where = WHERE[0]
        self.extra_hooks = run.hooks()
        self.manual_cast_dtype = None  # tile packs ask for it
        self.multigpu_clones: dict[Any, LocalControl] = {}
        self.kept = Kept()
        self._schedule: tuple[np.ndarray, np.ndarray] | None = None

    # what a kind of control has to say

    def own(self, view: View, call: Call, masks: torch.Tensor | None = None) -> Residuals | None:
        """What this control adds by itself, without the one before it. None: nothing.

        masks: (K, H, W), of the hint's frame, in place of the region's own.
        """
        raise NotImplementedError

    def auto_halo(self) -> float:
        """Pixels of the image around a region in which the hint matters."""
        raise NotImplementedError

    def own_models(self) -> list:
        """Patchers of the networks."""
        return []

    # what the host asks for

    def with_region(self, region: Region) -> LocalControl:
        """A copy that acts in another region. Before the hint is set."""
        made = self.copy()
        made.region = replace(region, where=self.trained_where) if region.where == AUTO else region
        return made

    def set_cond_hint(self, cond_hint, strength=1.0, timestep_percent_range=(0.0, 1.0), vae=None, extra_concat=()):
        """The host's Apply nodes call this. cond_hint: (N, C, H, W). Raises LimelightError where hint, mask and network
        do not fit."""
        self.check_hint(cond_hint)
        self.cond_hint_original = cond_hint if self.region.mask is None else packed(cond_hint, self.region.mask)
        self.strength, self.timestep_percent_range = strength, timestep_percent_range
        self.vae = vae if self.latent_format is not None else None  # as the host: tile packs take it for needed
        self.extra_concat_orig = list(extra_concat)
        return self

    def check_hint(self, hint: torch.Tensor) -> None:
        """Raises LimelightError for a hint that the network cannot take."""

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        shares = np.linspace(0, 1, 101)
        levels = np.array([float(percent_to_timestep_function(float(share))) for share in shares])
        self._schedule = levels[::-1], shares[::-1]

    def cleanup(self):
        super().cleanup()
        self.kept.clear()

    def copy(self):
        """Without the control before this one, as the host's classes do it."""
        made = copy.copy(self)
        made.previous_controlnet = made.cond_hint = made.timestep_range = None
        made.kept, made.multigpu_clones = Kept(), {}
        self.copy_to(made)
        return made

    def get_models(self):
        return super().get_models() + self.own_models()

    def get_models_only_self(self):
        return self.own_models()

    def get_instance_for_device(self, device):
        return self.multigpu_clones.get(device, self)

    def deepclone_multigpu(self, load_device, autoregister=False):
        """A copy whose networks are on another device (newer hosts)."""
        made = self.copy()
        made.move_networks(load_device)
        if autoregister:
            self.multigpu_clones[load_device] = made
        return made

    def move_networks(self, device: Any) -> None:
        """Give this copy networks of its own on a device."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        before = self.previous_controlnet
        previous = before and before.get_control(x_noisy, t, cond, batched_number, transformer_options)
        call = Call(x_noisy, t, cond, batched_number, transformer_options)
        if not self.is_on(t):
            return previous
        own = self.own(self.view(call), call)
        return previous if own is None else added(own, previous)

    # shared parts

    def is_on(self, t: torch.Tensor) -> bool:
        if self.timestep_range is None:
            return True
        return bool(self.timestep_range[1] <= t[0] <= self.timestep_range[0])

    def factor(self, call: Call) -> float:
        """The region's strength at the call's noise level; that of the Apply node is not in it."""
        if not self.region.curve or self._schedule is None:
            return self.region.strength
        return self.region.strength * self.region.at(float(np.interp(float(call.t[0]), *self._schedule)))

    def ratio(self) -> int:
        """Pixels of the hint to a latent cell."""
        return LATENT_CELL

    def tile(self, x: torch.Tensor) -> torch.Tensor | None:
        """A hint that a tile pack has cut for this very call, as it does with the host's controls."""
        found, size = self.cond_hint, [side * self.ratio() for side in x.shape[-2:]]
        return found if found is not None and list(found.shape[-2:]) == size else None

    def view(self, call: Call) -> View:
        """What the call sees of the hint."""
        tile = self.tile(call.x)
        if tile is None:
            return View.of(call.x, call.chunks, call.options)
        size = tuple(call.x.shape[-2:])
        if len(tile) == len(call.x):  # cut for each row of the call
            return View(size, (Part(0, 0, *size),), tuple(range(len(call.x))))
        return View(size, (Part(0, 0, *size),) * call.chunks, tuple(range(len(call.x) // call.chunks)))

    def prepared(self, view: View, call: Call) -> Prepared:
        """Hint and mask for the call's image, feathered and filled. Kept by what the source holds."""
        tile = self.tile(call.x)
        source = self.cond_hint_original if tile is None else tile
        digest = self.kept.digest(source)
        key = (digest, view.whole, "prepared")
        if key not in self.kept:
            self.kept.put(key, self._prepare(source, digest, view))
            self.kept.trim({key})
        return self.kept.get(key)

    def _prepare(self, source: torch.Tensor, digest: tuple, view: View) -> Prepared:
        if self.region.mask is None:
            return Prepared(source, None, digest)
        hint, mask = source[:, :-1], source[:, -1].float()
        ratio = self.ratio()
        wanted = view.whole[0] * ratio, view.whole[1] * ratio
        rows, _ = cuts((source.shape[-2], source.shape[-1]), wanted)
        scale = (source.shape[-2] - 2 * rows) / wanted[0]  # pixels of the hint to one of the image
        if self.region.masks_hint:
            halo = self.auto_halo() if self.region.halo is None else self.region.halo
            keep = surroundings(mask, halo * scale)[:, None].to(hint)
            hint = hint * keep + self.region.fill * (1 - keep)
        mask = feathered(mask, self.region.feather * scale) if self.region.masks_features else None
        return Prepared(hint, mask, digest)

    def multipliers(self, call: Call) -> torch.Tensor | float:
        """Strength of positive and negative conditioning: one number, or (B, 1, 1, 1)."""
        own = (self.region.cond, self.region.uncond)
        if own[0] == own[1]:
            return own[0]
        kinds = (call.options or {}).get("cond_or_uncond") or [0]
        values = torch.tensor([own[min(kind, 1)] for kind in kinds]).repeat_interleave(len(call.x) // len(kinds))
        return values.to(call.x)[:, None, None, None]


class Call(NamedTuple):
    """The arguments of one `get_control`."""

    x: torch.Tensor
    t: torch.Tensor
    cond: dict
    chunks: int
    """Conditionings in the batch."""
    options: dict


class Prepared(NamedTuple):
    """What a control works with."""

    hint: torch.Tensor
    """(N, C, H, W)"""
    mask: torch.Tensor | None
    """(N, H, W) of what the control adds, or none."""
    digest: tuple
    """Says what the source held."""


class Kept:
    """Results by what they were made of; the oldest go when they become too large."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple, Any] = OrderedDict()
        self._digests: dict[int, tuple[weakref.ref, int | None, tuple]] = {}

    def clear(self) -> None:
        self._values.clear()
        self._digests.clear()

    def get(self, key: tuple, make: Callable[[], Any] | None = None) -> Any:
        """What is kept; made if it is not."""
        if key not in self._values and make is not None:
            self._values[key] = make()
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: tuple, value: Any) -> None:
        self._values[key] = value

    def __contains__(self, key: tuple) -> bool:
        return key in self._values

    def trim(self, used: set[tuple]) -> None:
        """Forget what is not `used` until the rest is small enough."""
        sizes = {key: sum(t.numel() * t.element_size() for t in _tensors(value)) for key, value in self._values.items()}
        total = sum(sizes.values())
        for key in [key for key in self._values if key not in used]:
            if total <= _MEMORY:
                break
            total -= sizes[key]
            del self._values[key]

    def digest(self, tensor: torch.Tensor) -> tuple:
        """What a tensor holds, in a few numbers; computed once for each tensor that is not changed since."""
        version = None if tensor.is_inference() else tensor._version
        known = self._digests.get(id(tensor))
        if known is None or known[0]() is not tensor or known[1] != version:
            values = tensor.detach().reshape(-1).double()
            weights = torch.arange(len(values), device=values.device) % 8191 + 1
            numbers = (float(values.sum()), float((values * weights).sum()), float((values * values * weights).sum()))
            while len(self._digests) >= 256:  # tiles that are cut anew every time
                del self._digests[next(iter(self._digests))]
            known = self._digests[id(tensor)] = (weakref.ref(tensor), version, (tuple(tensor.shape), *numbers))
        return known[2]


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [each for each in value if isinstance(each, torch.Tensor)] if isinstance(value, (list, tuple)) else []


def added(own: Residuals, previous: Residuals | None) -> Residuals:
    """Two controls' residuals together, by their places in the lists, as the host adds them. New lists: the model takes
    its entries out of them."""
    out: Residuals = {key: list(own.get(key, ())) for key in ("input", "middle", "output")}
    for key, values in (previous or {}).items():
        mine = out.setdefault(key, [])
        mine += [None] * (len(values) - len(mine))
        for i, value in enumerate(values):
            if value is not None:
                mine[i] = value if mine[i] is None else value + mine[i]
    return out
