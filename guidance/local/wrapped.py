"""Any control of the host or of another pack as a local one: what it adds is masked, layer by layer.

The control itself runs as it is. It gets its hint and works at every step; then each map that it adds is multiplied by
the share of each cell that the region covers. Maps may also be sequences of tokens, as diffusion transformers take
them.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.utils
import torch

from ..errors import LimelightError
from .adapter_control import rows
from .control import Call, LocalControl, Prepared, Residuals
from .coverage import coverage
from .view import View, cuts, pixels

HALO = 64.0  # pixels; such networks see the whole image, so no halo is the right one
# what the host's classes hold from call to call
_HELD = ("cond_hint", "control_input", "extra_concat", "cond_hint_original", "extra_concat_orig")


class WrappedControl(LocalControl):
    """See the module. inner: a ControlBase; it is copied, and the control before it is not its business."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner.copy()
        self.inner.set_previous_controlnet(None)
        self._mirror()

    def copy(self):
        made = super().copy()
        made.inner = self.inner.copy()
        return made

    def own_models(self) -> list:
        return self.inner.get_models()

    def get_extra_hooks(self):
        return super().get_extra_hooks() + self.inner.get_extra_hooks()

    def inference_memory_requirements(self, dtype):
        return super().inference_memory_requirements(dtype) + self.inner.inference_memory_requirements(dtype)

    def move_networks(self, device: Any) -> None:
        self.inner = self.inner.deepclone_multigpu(device)

    def set_extra_arg(self, argument, value=None):
        self.inner.set_extra_arg(argument, value)

    def auto_halo(self) -> float:
        return HALO

    def ratio(self) -> int:
        return self.inner.compression_ratio * (self.vae.spacial_compression_encode() if self.vae is not None else 1)

    def set_cond_hint(self, cond_hint, strength=1.0, timestep_percent_range=(0.0, 1.0), vae=None, extra_concat=()):
        super().set_cond_hint(cond_hint, strength, timestep_percent_range, vae, extra_concat)
        self.inner.set_cond_hint(cond_hint, strength, timestep_percent_range, vae=vae, extra_concat=list(extra_concat))
        self.extra_concat_orig = list(self.inner.extra_concat_orig)
        return self

    def check_hint(self, hint: torch.Tensor) -> None:
        network = getattr(self.inner, "control_model", None)
        first = next(iter(getattr(network, "input_hint_block", None) or ()), None)
        wanted = getattr(first, "in_channels", None)
        if wanted is not None and hint.shape[1] != wanted:
            raise LimelightError(
                f"image: the ControlNet takes a hint of {wanted} channels, and this image has {hint.shape[1]}. Use an "
                "image without transparency."
            )

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.inner.pre_run(model, percent_to_timestep_function)
        _check_fits(getattr(self.inner, "control_model", None), model.diffusion_model)

    def cleanup(self):
        super().cleanup()
        self.inner.cleanup()

    def own(self, view: View, call: Call, masks: torch.Tensor | None = None) -> Residuals | None:
        multiplier = self.multipliers(call)
        factor = self.factor(call)  # the inner control knows the strength
        if factor == 0 or (isinstance(multiplier, float) and multiplier == 0):
            return None
        prepared = self.prepared(view, call)
        masks = prepared.mask if masks is None else masks
        latent = tuple(call.x.shape[-2:])
        if masks is not None and not self._cover(masks, view, latent, self.ratio(), prepared).any():
            return None  # nothing of the region is in sight
        found = self._run(prepared.hint, view, call, prepared.digest)
        if found is None:
            return None
        if self.region.blank:
            blank = torch.full_like(prepared.hint[:1], self.region.fill)
            empty = self._run(blank, view, call, ("blank", prepared.digest))
            found = _combined(found, empty, self.region.blank)

        def scaled(value: torch.Tensor | None) -> torch.Tensor | None:
            if value is None:
                return None
            if masks is None and len({*self.region.levels}) == 1:
                return value * _of_rank(factor * self.region.levels[0] * multiplier, value)
            grid, stride = _grid(value, latent, self.ratio())
            scale = factor * self.region.levels[_level(grid, call.x, len(self.region.levels))] * multiplier
            if masks is not None:
                scale = self._cover(masks, view, grid, stride, prepared).to(value) * scale
            return value * _of_rank(scale, value)

        return {key: [scaled(value) for value in values] for key, values in found.items()}

    def _run(self, hint: torch.Tensor, view: View, call: Call, digest: tuple) -> Residuals | None:
        """The inner control with a hint (N, C, H, W). What it keeps between calls is kept for each part and window."""
        inner = self.inner
        wanted = rows(view, len(hint))
        key = (digest, view, str(call.x.device), "inner")
        fresh = key not in self.kept
        if fresh:
            more = [self._cut(each, view, rows(view, len(each))) for each in self.extra_concat_orig]
            held: list = [None, None, None, self._cut(hint, view, wanted), more]
        else:
            held = self.kept.get(key)
        for name, value in zip(_HELD, held, strict=True):
            if hasattr(inner, name):
                setattr(inner, name, value)
        found = inner.get_control(call.x, call.t, call.cond, call.chunks, call.options)
        held[:] = [getattr(inner, name, None) for name in _HELD]
        self.kept.put(key, held)
        self.kept.trim({key})
        return found

    def _cut(self, hint: torch.Tensor, view: View, wanted: list) -> torch.Tensor:
        """What the inner control is to see of images (N, C, H, W). As it came, if that is everything: the host's class
        then does what it always does."""
        plain = not view.crops and view.frames == tuple(range(len(view.frames)))
        if plain or hint.shape[-2:] == (1, 1):  # the host's mask for inpainting, where there is none
            return hint
        if not view.crops:
            return torch.cat([hint[frame : frame + 1] for _, frame in wanted[: len(view.frames)]])
        ratio = self.ratio()
        height, width = (side * ratio for side in view.whole)
        flat = hint if hint.ndim == 4 else hint[:, None]
        whole = comfy.utils.common_upscale(flat, width, height, self.upscale_algorithm, "center")
        cut = [
            whole[frame : frame + 1, :, p.top * ratio :, p.left * ratio :][:, :, : p.height * ratio, : p.width * ratio]
            for p, frame in wanted
        ]
        return torch.cat(cut)

    def _cover(self, masks: torch.Tensor, view: View, grid: tuple, stride: float, prepared: Prepared) -> torch.Tensor:
        """(1 or B, 1, h, w): the region's share of the cells."""
        ratio = self.ratio()
        cut = cuts((masks.shape[-2], masks.shape[-1]), (view.whole[0] * ratio, view.whole[1] * ratio))
        digest = prepared.digest if masks is prepared.mask else self.kept.digest(masks)

        def cover(part, frame):
            axes = [
                pixels(place, whole, source, away, stride, ratio, 1)
                for place, whole, source, away in zip(
                    ((part.top, part.height), (part.left, part.width)), view.whole, masks.shape[-2:], cut, strict=True
                )
            ]
            return coverage(masks[frame : frame + 1], *axes)[:, None]

        key = (digest, view, grid, "covered")
        return self.kept.get(key, lambda: torch.cat([cover(*row) for row in rows(view, len(masks))]))

    def _mirror(self) -> None:
        """What Apply nodes and tile packs look up on a control."""
        inner = self.inner
        self.compression_ratio, self.upscale_algorithm = inner.compression_ratio, inner.upscale_algorithm
        self.latent_format, self.concat_mask = inner.latent_format, inner.concat_mask
        self.preprocess_image = inner.preprocess_image
        self.manual_cast_dtype = getattr(inner, "manual_cast_dtype", None)


def _combined(found: Residuals, blank: Residuals | None, share: float) -> Residuals:
    """found - share * blank, entry by entry."""

    def one(value, empty):
        return value if value is None or empty is None else value - share * empty

    return {k: [one(*pair) for pair in zip(v, (blank or found)[k], strict=True)] for k, v in found.items()}


def _of_rank(scale: torch.Tensor | float, value: torch.Tensor) -> torch.Tensor | float:
    """Factors (B, 1, h, w) for a map, or for a sequence of tokens (B, h w, C)."""
    if isinstance(scale, float) or value.ndim == 4:
        return scale
    return scale.flatten(1)[..., None] if value.ndim == 3 else scale.reshape(len(scale), *[1] * (value.ndim - 1))


def _grid(value: torch.Tensor, latent: tuple[int, int], ratio: int) -> tuple[tuple[int, int], float]:
    """Cells (h, w) of what a control adds, and pixels to a cell."""
    for halvings in range(8):
        stride = 2**halvings
        grid = tuple(-(-side // stride) for side in latent)
        if (value.ndim == 4 and tuple(value.shape[-2:]) == grid) or (
            value.ndim == 3 and halvings and value.shape[1] == math.prod(grid)
        ):
            return grid, stride * ratio
    raise LimelightError(
        f"control_net: this control adds values of shape {tuple(value.shape)} to a latent of {latent[1]}x{latent[0]} "
        "cells, and it is not known which of them belong to which place. It cannot be given a region."
    )


def _level(grid: tuple[int, int], x: torch.Tensor, count: int) -> int:
    """0 for the finest, of as many as there are weights for."""
    return min(round(math.log2(max(x.shape[-2] / grid[0], 1))), count - 1)


def _check_fits(network: Any, model: Any) -> None:
    """Raises LimelightError for a ControlNet of another kind of UNet; the host would only log that nothing happens."""
    own, wanted = (
        [layers[0].out_channels for layers in getattr(each, "input_blocks", ()) if hasattr(layers[0], "out_channels")]
        for each in (network, model)
    )
    if own and wanted and own != wanted:
        raise LimelightError(
            f"control_net: the ControlNet has blocks of the widths {', '.join(map(str, own))}, and the model "
            f"{', '.join(map(str, wanted))}: it was made for another kind of model. Choose one for this checkpoint."
        )
