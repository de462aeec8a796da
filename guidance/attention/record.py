"""Watching where attention lies while sampling, without changing a bit of the image.

Keyed wrappers on a clone of the model note the cross-attention maps of the normal passes: in the blocks that carry
layout, for the rows of every positive conditioning that has highlights, once a step. Passes with gradients (the probes
of the guided step) and repeated passes within a step (perturbed-attention guidance and its kin) are not noted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..regions.document import Highlight, parse_instances
from ..regions.overlay import PALETTE
from .architectures import family_of, unet
from .capture import Capture
from .descent import percent_of
from .joint import joined
from .joint_capture import JointCapture
from .losses import phrase_map, placement_loss
from .recording import Recorded, Recording, Step, resized
from .samplers import guided_calls, keeps_edits
from .scenes import Scene, scenes, tell_apart
from .step import size_of

if TYPE_CHECKING:
    from .architectures.unet import Block

WRAPPER = "limelight_record"
LOOSENESS = 1.0  # of the targets that the losses are taken against: the guided step's default


def attach(model, every: int = 1) -> tuple[object, Recording]:
    """MODEL -> a clone that records every run, and where it does so. every: of how many steps one is recorded; the
    last one always is."""
    family_of(model.model.diffusion_model)  # an error now if highlights cannot act on it
    model = model.clone()
    from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

    recording = Recording()
    runs: list[_Run] = []  # the run in progress; shared by everyone who samples with this model, one after another

    def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        def sample():
            return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)

        latent = size_of(noise, family_of(guider.inner_model.diffusion_model))
        found = scenes(guider.conds, latent, LOOSENESS)
        recording.begin(_highlights(found), latent, len(sigmas) - 1)
        if not found:
            logging.info("Limelight: the positive conditioning carries no highlights; no attention is recorded.")
            return sample()
        tell_apart(found, guider.conds)
        run = _Run(guider, executor.class_obj, sigmas, found, every, recording)
        # only now, so that it is the innermost wrapper wherever the node stands: others find the attention unpatched
        options = extra_args["model_options"]  # made by the host for this run
        add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER, run.apply_model, options, is_model_options=True)
        runs.append(run)
        try:
            return sample()
        finally:
            runs.remove(run)

    def predict_noise(executor, x, timestep, model_options=None, seed=None):
        def denoise():
            return executor(x, timestep, model_options or {}, seed)

        if not runs or runs[-1].guider is not executor.class_obj:
            return denoise()
        return runs[-1].watch(denoise, timestep)

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, WRAPPER, sampler_sample)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, WRAPPER, predict_noise)
    return model, recording


def _highlights(found: list[Scene]) -> list[Recorded]:
    """The highlights of all scenes in the order of their targets, each with a colour."""
    recorded, before = [], 0
    for scene in found:
        for target in scene.targets(*scene.size, torch.device("cpu")):
            item = scene.bound["highlights"][target.index]
            color = item.get("color") or PALETTE[(before + target.index) % len(PALETTE)]
            highlight = Highlight(item["phrase"], parse_instances(item["instances"]), 1, item["strength"], color)
            recorded.append(Recorded(highlight, scene.crop))
        before += len(scene.bound["highlights"])
    return recorded


class _Run:
    """State of one sampling run."""

    def __init__(
        self, guider: Any, sampler: object, sigmas: torch.Tensor, found: list[Scene], every: int, into: Recording
    ) -> None:
        self.guider, self.scenes, self.every, self.recording = guider, found, every, into
        self.network = guider.inner_model.diffusion_model
        self.family = family_of(self.network)
        self.sigmas = [float(sigma) for sigma in sigmas]
        self.calls = guided_calls(sampler, len(sigmas) - 1, self.sigmas[-1] == 0) if keeps_edits(sampler) else None
        self.index = -1
        self.seen: dict | None = None  # by scene's uuid: (maps (B, n, h, w), losses (B, n)) of the step in progress

    def watch(self, denoise: Callable, timestep: torch.Tensor) -> torch.Tensor:
        """One prediction of the guider; `denoise` makes it."""
        if self.calls is None:  # an unknown sampler: of several calls near one sigma the last one counts
            self.index = min(range(len(self.sigmas) - 1), key=lambda i: abs(self.sigmas[i] - float(timestep[0])))
        elif next(self.calls):
            self.index += 1
        else:
            return denoise()
        if self.index % self.every and self.index != len(self.sigmas) - 2:
            return denoise()
        self.seen = {}
        try:
            out = denoise()
            if self.seen:
                self.recording.keep(self._step(self.seen, percent_of(self.guider.inner_model.model_sampling, timestep)))
            return out
        finally:
            self.seen = None

    def apply_model(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ) -> torch.Tensor:
        """The wrapper of one pass of the model over a batch of conditionings."""
        options = transformer_options or {}
        uuids = options.get("uuids", ())
        seen_now = self.seen
        known = uuids if seen_now is None else seen_now
        new = [scene for scene in self.scenes if scene.cond["uuid"] in uuids and scene.cond["uuid"] not in known]
        if seen_now is None or not new or torch.is_grad_enabled():
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        network, family, each = self.network, self.family, x.shape[0] // len(uuids)
        begins = [uuids.index(scene.cond["uuid"]) * each for scene in new]
        rows = [slice(begin, begin + each) for begin in begins]
        # what is batched together has one size, and so the same blocks
        blocks = family.layout_blocks(network, *x.shape[-2:])
        options, seen = watched(options, family, network, blocks, new, rows, (x, c_crossattn, kwargs))
        out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        for scene, maps in zip(new, seen(), strict=True):
            if maps:  # none if another node answered in the network's place
                seen_now[scene.cond["uuid"]] = _summary(list(maps.values()), scene)
        return out

    def _step(self, seen: dict, percent: float) -> Step:
        maps, losses = [], []
        batch = next(iter(seen.values()))[1].shape[0]
        for scene in self.scenes:
            count = len(scene.phrases)
            shares, loss = seen.get(scene.cond["uuid"], (None, torch.full((batch, count), torch.nan)))
            maps += [None] * count if shares is None else list(shares.unbind(1))
            losses.append(loss)
        return Step(self.index, percent, maps, torch.cat(losses, 1))


def watched(
    options: dict,
    family: Any,
    network: torch.nn.Module,
    blocks: list[Block],
    scenes: list[Scene],
    rows: list[slice],
    forward: tuple,
) -> tuple[dict, Callable[[], list[dict]]]:
    """Watch one forward of the model without a change to it.

    rows: of the batch, for each scene. forward: x, context and the rest of what the model gets. -> the transformer
    options for it, and what to ask after it: for each scene, by block, the maps (B, h, w, T).
    """
    if family is unet:
        options, capture = dict(options), Capture(attend=_as_the_host)
        unet.install(options, capture, blocks, leave=False)
        return options, lambda: [{key: maps[part] for key, maps in capture.seen.cross.items()} for part in rows]
    options, joint = joined(options, family, network, *forward)
    captures = [JointCapture(family, network, scene, blocks) for scene in scenes]
    for each, part in zip(captures, rows, strict=True):
        each.watch(joint, part)
    return options, lambda: [each.seen.cross for each in captures]


def _summary(maps: list[torch.Tensor], scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """maps of all layers, each (B, h, w, T) -> shares (B, n, h, w) on the finest grid and losses (B, n), on the CPU.

    Where the host has repeated a context to batch it with a longer one, the columns of the first copy suffice: a
    phrase's share is the same in every copy.
    """
    tokens = scene.bound["text_tokens"]
    finest = max((tuple(m.shape[1:3]) for m in maps), key=lambda grid: grid[0] * grid[1])
    shares, losses = [], []
    for m in maps:
        targets = scene.targets(m.shape[1], m.shape[2], m.device)
        share = torch.stack([phrase_map(m, target.tokens, tokens) for target in targets], 1)
        shares.append(resized(share.flatten(0, 1), *finest).unflatten(0, share.shape[:2]))
        losses.append(placement_loss(m, targets, tokens))
    return torch.stack(shares).mean(0).cpu(), torch.stack(losses).mean(0).cpu()


def _as_the_host(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict) -> torch.Tensor:
    """What the host's own layer computes, with the same kernel and the same override by another pack."""
    from comfy.ldm.modules import attention

    precision, heads = extra["attn_precision"], extra["n_heads"]
    return attention.optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=extra)
