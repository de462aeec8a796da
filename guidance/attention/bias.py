"""Attention bias: while sampling, add to the attention logits so that each phrase acts where its highlight says.

Forward only: no gradient, no extra pass. Two keyed wrappers on a clone of the model: one finds the highlights of the
run, the other gives every forward of the model its own copy of the options, in which the attention of some blocks is
replaced for the rows of the positive conditionings. What another pack has put there keeps acting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..errors import LimelightError
from . import bias_terms
from .architectures import family_of, unet
from .architectures.unet import Block
from .bias_joint import JointRun
from .bias_methods import METHODS, BiasMethod, Layout
from .capture import differentiable
from .descent import time_of
from .propagation import REGIONS
from .scenes import Scene, tell_apart
from .step import size_of

WRAPPER = "limelight_bias"
LOOSENESS = 0.5
PIECE = 2**25  # logits that are held at a time: 128 MiB


def attach(
    model,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float | None = None,
    method: str | BiasMethod = "limelight",
    cross_strength: float = 1.0,
    self_strength: float = 1.0,
    looseness: float = LOOSENESS,
):
    """MODEL -> a clone whose attention leans towards the highlights of the positive conditioning. `strength` 0: a
    plain clone.

    start_percent, end_percent: the biased part of the noise schedule, 0 = pure noise, 1 = the finished image; None: as
    the method says. method: one of METHODS. cross_strength, self_strength: of the attention to the prompt's words and
    of that among the image's cells, both times `strength`. looseness: width of the free band around strokes.
    """
    method = METHODS[method] if isinstance(method, str) else method
    window = (start_percent, method.end_percent if end_percent is None else end_percent)
    strengths = {"attn1": strength * self_strength, "attn2": strength * cross_strength}
    return install(model, WRAPPER, method, window, strengths, looseness)


def install(
    model,
    key: str,
    method: BiasMethod,
    window: tuple[float, float],
    strengths: dict[str, float],
    looseness: float = LOOSENESS,
):
    """MODEL -> a clone that `method` biases. key: of the wrappers; another bias with the same key is replaced, one with
    another key goes on acting. window: percents. strengths: by the host's names, attn1 for self- and attn2 for
    cross-attention; where both are 0, a plain clone.
    """
    check(model.model.diffusion_model, method, strengths)
    model = model.clone()
    from comfy.patcher_extension import WrappersMP

    for kind in (WrappersMP.SAMPLER_SAMPLE, WrappersMP.APPLY_MODEL):
        model.remove_wrappers_with_key(kind, key)
    if not any(strengths.values()):
        return model
    # the run in progress; shared by everyone who samples with this model, one after another
    runs: list[_Run | JointRun] = []

    def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        def sample():
            return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)

        network = guider.inner_model.diffusion_model
        family = check(network, method, strengths)
        size_of(noise, family)  # refuses what is no image
        found = method.scenes(guider.conds, noise.shape, looseness)
        if not found:
            logging.info("Limelight: the positive conditioning carries no highlights; attention is not biased.")
            return sample()
        tell_apart(found, guider.conds)
        run = (network, guider.inner_model.model_sampling, found, window, method, strengths)
        runs.append(_Run(*run) if family is unet else JointRun(family, *run))
        try:
            return sample()
        finally:
            runs.pop()

    def apply_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        options = transformer_options or {}
        if runs:
            options = runs[-1].options(options, x, t, c_crossattn, kwargs)
        out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if runs:
            runs[-1].done(options)
        return out

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, sampler_sample)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, apply_model)
    return model


def check(network: torch.nn.Module, method: BiasMethod, strengths: dict[str, float]):
    """The adapter of a network that `method` can bias; raises a LimelightError for others."""
    family = family_of(network)
    if family is not unet and not method.transformers:
        raise LimelightError(
            f"model: found a {type(network).__name__}; this way of biasing attention works on UNets (Stable Diffusion "
            "1.x, 2.x, SDXL). For diffusion transformers choose the method 'limelight' or 'regions' of Highlight Bias."
        )
    if family is not unet and not strengths["attn2"] and strengths["attn1"]:
        logging.info("Limelight: in diffusion transformers only attention to words is biased, and its strength is 0.")
    return family


class _Run:
    """One sampling run of a UNet. ``strengths``: by the host's names, attn1 for self- and attn2 for cross-attention."""

    def __init__(
        self,
        network: torch.nn.Module,
        model_sampling: Any,
        found: list[Scene],
        window: tuple[float, float],
        method: BiasMethod,
        strengths: dict[str, float],
    ) -> None:
        self.network, self.model_sampling, self.method, self.strengths = network, model_sampling, method, strengths
        self.scenes = {scene.cond["uuid"]: scene for scene in found}
        self.high, self.low = (float(model_sampling.percent_to_sigma(percent)) for percent in window)
        self.layouts: dict[tuple, Layout] = {}
        self.blocks: dict[tuple[int, int], list[Block]] = {}

    def options(self, given: dict, x: torch.Tensor, sigma: torch.Tensor, context: torch.Tensor, _: dict) -> dict:
        """The transformer options of one forward with the bias in them; the same object where there is none."""
        rows = [self.scenes.get(one) for one in given.get("uuids", ())]
        if not any(rows) or not self.low <= float(sigma[0]) <= self.high:
            return given
        time = time_of(self.model_sampling, sigma)
        forward = _Forward(self, rows, x.shape[0], context.shape[1], time, given.get(REGIONS, {}))
        latent = tuple(x.shape[-2:])
        replace = {name: dict(group) for name, group in given.get("patches_replace", {}).items()}
        for kind, chosen in (("attn1", self.method.self_block), ("attn2", self.method.cross_block)):
            group = replace.setdefault(kind, {})
            for block in self._blocks(latent) if self.strengths[kind] else ():
                if chosen(block, latent):
                    previous = group.get(block.key, group.get(block.key[:2]))
                    group[block.key] = partial(forward.attend, kind, previous)
        return {**given, "patches_replace": replace}

    def done(self, options: dict) -> None:
        """After the forward with these options."""

    def _blocks(self, latent: tuple[int, int]) -> list[Block]:
        if latent not in self.blocks:
            self.blocks[latent] = unet.all_blocks(self.network, *latent)
        return self.blocks[latent]


@dataclass(frozen=True)
class _Forward:
    """One biased forward of the model: what its attention calls have in common."""

    run: _Run
    rows: list[Scene | None]
    """The scene of each equal part of the batch."""
    batch: int
    length: int
    """Columns of the context."""
    time: float
    regions: dict
    """Regions that have grown, by id of a conditioning and index of a highlight."""

    def attend(self, kind: str, previous: Callable | None, q, k, v, extra: dict) -> torch.Tensor:
        """In place of an attention call of the host; `previous` is a replacement that was there before."""
        heads, grid = extra["n_heads"], tuple(extra["activations_shape"][-2:])
        cells = grid[0] * grid[1]
        whole = _foreign(q, k, v, extra, previous)
        if q.shape[:2] != (self.batch, cells) or (kind == "attn1" and k.shape[1] != cells):
            # another pack has merged, tiled or added cells in this block
            return _plain(q, k, v, extra) if whole is None else whole
        term = self.run.method.self_ if kind == "attn1" else self.run.method.cross
        term = partial(term, strength=self.run.strengths[kind], time=self.time)
        size, parts = self.batch // len(self.rows), []
        for begin, scene in zip(range(0, self.batch, size), self.rows, strict=True):
            part = slice(begin, begin + size)
            own = q[part], k[part], v[part]
            led = None
            if scene is not None:
                led = _led(*own, heads, partial(term, layout=self._layout(scene, grid, q.device, k.shape[1])))
            if led is None:
                parts.append(_plain(*own, extra) if whole is None else whole[part])
            else:
                parts.append(led if whole is None else whole[part] + led - _exact(*own, heads))
        return torch.cat(parts)

    def _layout(self, scene: Scene, grid: tuple[int, int], device: torch.device, columns: int) -> Layout:
        key = (scene.cond["uuid"], grid, device, self.length, columns)
        if key not in self.run.layouts:
            with torch.inference_mode(False):  # the guided step's pass cannot use inference tensors
                self.run.layouts[key] = self.run.method.layout(scene, grid, device, self.length, columns)
        layout, regions = self.run.layouts[key], self.regions.get(scene.cond["uuid"])
        return layout.grown(regions) if regions else layout


def _led(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, term: Callable) -> torch.Tensor | None:
    """Attention with ``term(scores=, queries=)`` added to its logits; None: with nothing. For autograd the term is a
    constant."""
    step = max(1, PIECE // (q.shape[0] * heads * k.shape[1]))
    pieces = []
    for begin in range(0, q.shape[1], step):
        queries = slice(begin, begin + step)
        piece = q[:, queries]
        with torch.no_grad():
            mask = term(scores=partial(_scores, q, k, heads, queries), queries=queries)
        if mask is None:
            return None
        pieces.append(_exact(piece, k, v, heads, mask.to(q.dtype)))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


def _scores(q: torch.Tensor, k: torch.Tensor, heads: int, queries: slice, cells: slice | None = None) -> torch.Tensor:
    """Logits of the piece, or of other cells."""
    return bias_terms.logits(q[:, queries if cells is None else cells], k, heads)


def _exact(q, k, v, heads: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """PyTorch's attention: it honours the mask (sage and flash attention may not) and has a gradient."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(q, k, v, heads, mask=mask)


def _plain(q, k, v, extra: dict) -> torch.Tensor:
    """The host's attention, as it would be without a replacement."""
    from comfy.ldm.modules.attention import optimized_attention

    precision = extra["attn_precision"]
    return optimized_attention(q, k, v, extra["n_heads"], attn_precision=precision, transformer_options=extra)


def _foreign(q, k, v, extra: dict, previous: Callable | None) -> torch.Tensor | None:
    """What another pack makes of this attention, in all rows at once as it expects them; None: nobody has a say."""
    if previous is not None:
        return previous(q, k, v, extra)
    override = extra.get("optimized_attention_override")
    return None if override is None or override is differentiable else _plain(q, k, v, extra)
