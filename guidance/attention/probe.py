"""One look at the model: the losses of all highlights at a latent x, and their gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch

from .architectures import family_of, unet
from .autograd import DetachedControl, checkpointed, frozen_weights, own_attention
from .capture import Capture, StopForward, differentiable
from .joint_capture import JointCapture, checkpointed_blocks
from .method import Method
from .scenes import Scene
from .seen import Seen

# wrappers of the host that would compile the probe, or answer it and later passes from a cache
FOREIGN = {"torch.compile", "easycache", "lazycache"}
LOSS_SCALE = 2.0**12  # fp16 models: lifts small gradients above the smallest half-precision number


@dataclass
class Look:
    """What a probe found. Columns are every scene's highlights in turn; a scene that is off at this sigma holds NaN."""

    losses: torch.Tensor  # (B, n)
    wanted: torch.Tensor  # (B, n), bool: those that are descended
    gradient: torch.Tensor | None  # like x; None: nothing is wanted


class Probe:
    """Looks at a network for the scenes of one run."""

    def __init__(
        self,
        network: torch.nn.Module,
        scenes: list[Scene],
        method: Method,
        checkpoint: bool = False,
        capture: Callable[[bool], Capture] = Capture,
    ) -> None:
        self.network, self.scenes, self.checkpoint, self.capture = network, scenes, checkpoint, capture
        self.family = family_of(network)
        self.loss_scale = LOSS_SCALE
        self.method = method
        self.phrases = [phrase for scene in scenes for phrase in scene.phrases]
        self.strengths = [strength for scene in scenes for strength in scene.strengths]
        self._views = [_View(network, scene, copy.deepcopy(method)) for scene in scenes]

    def look(
        self, guider: object, x: torch.Tensor, sigma: torch.Tensor, options: dict, percent: float, iteration: int = 0
    ) -> Look:
        """x: (B, C, H, W), sigma: (B,). Runs outside inference mode; leaves nothing behind."""
        losses, wanted, gradient = [], [], None
        for view in self._views:
            with ExitStack() as stack:  # what a checkpointed module meets again in backward
                leaf = x.detach().clone().requires_grad_(True)
                going = view.method.continues(percent, iteration)
                seen = self._forward(guider, view, leaf, sigma, options, stack) if going else Seen()
                if not seen.cross:  # nothing more to do, or outside the timestep range of this conditioning
                    losses.append(x.new_full((x.shape[0], len(view.scene.phrases)), torch.nan))
                    wanted.append(torch.zeros_like(losses[-1], dtype=torch.bool))
                    continue
                each = view.method.losses(seen, view.scene, percent)
                losses.append(each.detach())
                wanted.append(view.method.wanted(losses[-1], percent, iteration))
                if wanted[-1].any():
                    total = torch.where(wanted[-1], each * each.new_tensor(view.scene.strengths), 0).sum()
                    part = torch.autograd.grad(total * self.loss_scale, leaf)[0].float() / self.loss_scale
                    gradient = part if gradient is None else gradient + part
        return Look(torch.cat(losses, 1), torch.cat(wanted, 1), gradient)

    def differentiable(self, guider: Any) -> AbstractContextManager:
        """Where looks have gradients; see `differentiable_model`."""
        return differentiable_model(guider, [scene.cond for scene in self.scenes])

    def regions(self) -> dict:
        """By id of a conditioning: the regions of its highlights as far as they have grown (`Method.regions`)."""
        each = {view.scene.cond["uuid"]: view.method.regions() for view in self._views}
        return {uuid: regions for uuid, regions in each.items() if regions}

    def _forward(
        self, guider, view: _View, x: torch.Tensor, sigma: torch.Tensor, options: dict, until_backward: ExitStack
    ) -> Seen:
        """Run the conditioning alone until everything has been seen."""
        import comfy.samplers

        model, probing = guider.inner_model, probe_options(options)
        if self.family is unet:
            capture: Any = self.capture(view.method.heads)
            capture.self_attention, capture.affinity = view.method.self_attention, view.method.affinity
            unet.install(probing["transformer_options"], capture, *view.calls)
        else:
            capture = JointCapture(self.family, self.network, view.scene, view.calls[0])
            capture.install(probing["transformer_options"])
        cond = probed(view.scene.cond, options)
        apply_weight_hooks(model.current_patcher, cond, sigma, options)
        with ExitStack() as stack:
            if self.checkpoint and self.family is not unet:
                # its blocks run again in backward, with the same attention as in the first run
                until_backward.enter_context(checkpointed_blocks(self.family, self.network, view.calls[0]))
            elif self.checkpoint:
                stack.enter_context(checkpointed(unet.checkpointable(self.network, *view.calls)))
            # its modules take no notice of the sampling options
            attend = capture.grounding_attention if view.method.grounding else differentiable
            until_backward.enter_context(own_attention(grounding([view.scene.cond]), attend))
            try:
                comfy.samplers.calc_cond_batch(model, [[cond]], x, sigma.clone(), probing)
            except StopForward:
                pass
        return capture.seen


class _View:
    """A scene, the method's own copy for it, and what to capture: blocks for cross- and self-attention, features."""

    def __init__(self, network: torch.nn.Module, scene: Scene, method: Method) -> None:
        self.scene, self.method = scene, method
        self.calls = (
            method.layout(network, *scene.size),
            method.self_layout(network, *scene.size),
            method.feature_blocks(network),
        )


@contextmanager
def differentiable_model(guider: Any, conds: list[dict], *networks: torch.nn.Module) -> Iterator[None]:
    """Within the block, passes of the guider's model with these conditionings have gradients, and so have `networks`.
    Everything is put back at its end."""
    network = guider.inner_model.diffusion_model
    in_place = getattr(family_of(network), "in_place", False)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen_weights(network, *grounding(conds), *networks, in_place=in_place),
        in_training(),
    ):
        yield


@cache
def _plain_kernels() -> list[tuple[Any, str, Any]]:
    """Where newer hosts find their kernels for positions: owner, name, and the plain form."""
    try:
        kernels, plain = (import_module(f"comfy_kitchen{name}") for name in ("", ".backends.eager.rope"))
    except ImportError:  # an older host
        return []
    names = [name for name in dir(plain) if "rope" in name and name[0] != "_" and hasattr(kernels, name)]
    return [(kernels, name, getattr(plain, name)) for name in names]


@contextmanager
def in_training() -> Iterator[None]:
    """Newer hosts turn positions into rotations with kernels that have no gradient: most only unless they believe to
    train, that of Cosmos Predict2 always, so that their plain forms, which have one, take their places."""
    import comfy.model_management

    swaps = list(_plain_kernels())
    if hasattr(comfy.model_management, "in_training"):
        swaps.append((comfy.model_management, "in_training", True))
    before = [getattr(owner, name) for owner, name, _ in swaps]
    try:
        for owner, name, value in swaps:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(swaps, before, strict=True):
            setattr(owner, name, value)


def grounding(conds: list[dict]) -> list[torch.nn.Module]:
    """The GLIGEN models of the conditionings."""
    return list(dict.fromkeys(cond["gligen"][1].model for cond in conds if "gligen" in cond))


def probed(cond: dict, options: dict) -> dict:
    """A copy of a conditioning for a pass with gradients: its ControlNets are constants. options: of the sampling."""
    cond = dict(cond)
    if "control" in cond:
        cond["control"] = DetachedControl(cond["control"], options.get("transformer_options", {}))
    return cond


def probe_options(options: dict) -> dict:
    """A copy of the sampling options for the guided pass: differentiable attention, no foreign caches."""
    from comfy.model_patcher import create_model_options_clone

    options = create_model_options_clone(options)
    options.pop("multigpu_clones", None)  # its threads run without autograd
    to = options.setdefault("transformer_options", {})
    to["optimized_attention_override"] = differentiable
    wrappers = to.get("wrappers", {})
    to["wrappers"] = {kind: {k: f for k, f in keyed.items() if k not in FOREIGN} for kind, keyed in wrappers.items()}
    return options


def apply_weight_hooks(patcher: Any, cond: dict, sigma: torch.Tensor, options: dict) -> None:
    """Let the host patch the weights for this conditioning now: it writes in place, which needs inference mode."""
    hooks = cond.get("hooks")
    if hooks is None and patcher.current_hooks is None:
        return
    with torch.inference_mode():
        if hooks is not None:
            patcher.prepare_hook_patches_current_keyframe(sigma, hooks, options)
        patcher.apply_hooks(hooks=hooks)
