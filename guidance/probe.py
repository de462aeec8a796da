"""One look at the model: the losses of all highlights at a latent x, and their gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from .architectures import unet
from .autograd import DetachedControl, checkpointed, differentiable_attention, frozen_weights
from .capture import Capture, StopForward, differentiable
from .scenes import Scene
from .separation import separation_loss

# wrappers of the host that would compile the probe, or answer it and later passes from a cache
FOREIGN = {"torch.compile", "easycache", "lazycache"}
LOSS_SCALE = 2.0**12  # fp16 models: lifts small gradients above the smallest half-precision number


@dataclass
class Look:
    """What a probe saw. Losses are of every scene's targets in turn; a scene that is off at this sigma holds NaN."""

    losses: torch.Tensor  # (B, n)
    gradient: torch.Tensor | None  # like x; None: every highlight is satisfied, or the conditioning is off


@dataclass
class Probe:
    """How to look: shared by all looks of a run."""

    loss: Callable  # (maps (B, h, w, T), targets, text_tokens) -> (B, n)
    stop_at: float
    separation: float  # weight of the self-attention loss
    average_layers: bool  # one loss of the mean map of each size, instead of the mean over layers of their losses
    checkpoint: bool
    loss_scale: float = LOSS_SCALE
    capture: Callable[[], Capture] = Capture

    def look(self, guider: object, scenes: list[Scene], x: torch.Tensor, sigma: torch.Tensor, options: dict) -> Look:
        """x: (B, C, H, W), sigma: (B,). Runs outside inference mode; leaves nothing behind."""
        losses, gradient = [], None
        for scene in scenes:
            leaf = x.detach().clone().requires_grad_(True)
            capture = self._forward(guider, scene, leaf, sigma, options)
            if not capture.cross:  # outside the timestep range of this conditioning
                losses.append(x.new_full((x.shape[0], len(scene.phrases)), torch.nan))
                continue
            each = self._losses(capture, scene)
            losses.append(each.detach())
            part = self._gradient(each, scene, leaf)
            if part is not None:
                gradient = part if gradient is None else gradient + part
        return Look(torch.cat(losses, 1), gradient)

    def _losses(self, capture: Capture, scene: Scene) -> torch.Tensor:
        maps = list(capture.cross.values())
        if self.average_layers:
            sizes = {tuple(m.shape[1:3]) for m in maps}
            maps = [torch.stack([m for m in maps if m.shape[1:3] == size]).mean(0) for size in sizes]
        tokens = scene.bound["text_tokens"]
        loss = torch.stack([self.loss(m, scene.targets(*m.shape[1:3], m.device), tokens) for m in maps]).mean(0)
        if self.separation > 0 and capture.self_:
            apart = [separation_loss(m, scene.targets(*m.shape[1:3], m.device)) for m in capture.self_.values()]
            loss = loss + self.separation * torch.stack(apart).mean(0)
        return loss

    def _gradient(self, losses: torch.Tensor, scene: Scene, leaf: torch.Tensor) -> torch.Tensor | None:
        active = losses.detach() > self.stop_at
        if not active.any():
            return None
        strengths = losses.new_tensor(scene.strengths)
        total = torch.where(active, losses * strengths, 0).sum()  # samples are independent: each gets its own gradient
        return torch.autograd.grad(total * self.loss_scale, leaf)[0].float() / self.loss_scale

    def _forward(self, guider, scene: Scene, x: torch.Tensor, sigma: torch.Tensor, options: dict) -> Capture:
        """Run the conditioning alone up to the last captured block."""
        import comfy.samplers

        model, capture = guider.inner_model, self.capture()
        probing = _probe_options(options)
        unet.install(probing, scene.blocks, capture, with_self=self.separation > 0 and len(scene.phrases) > 1)
        cond = dict(scene.cond)
        if "control" in cond:
            cond["control"] = DetachedControl(cond["control"], options.get("transformer_options", {}))
        _apply_weight_hooks(model.current_patcher, cond, sigma, options)
        with self._prepared(model.diffusion_model, scene):
            try:
                comfy.samplers.calc_cond_batch(model, [[cond]], x, sigma.clone(), probing)
            except StopForward:
                pass
        return capture

    @contextmanager
    def _prepared(self, network: torch.nn.Module, scene: Scene) -> Iterator[None]:
        with ExitStack() as stack:
            if self.checkpoint:
                stack.enter_context(checkpointed(unet.checkpointable(network, scene.blocks)))
            yield


@contextmanager
def differentiable_model(guider: object, scenes: list[Scene]) -> Iterator[None]:
    """Within the block, probes of the guider's model have gradients. Everything is put back at its end."""
    grounding = [scene.cond["gligen"][1].model for scene in scenes if "gligen" in scene.cond]
    grounding = list(dict.fromkeys(grounding))
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen_weights(guider.inner_model.diffusion_model, *grounding),
        differentiable_attention(*grounding),
    ):
        yield


def _probe_options(options: dict) -> dict:
    """A copy of the sampling options for the guided pass: differentiable attention, no foreign caches."""
    from comfy.model_patcher import create_model_options_clone

    options = create_model_options_clone(options)
    options.pop("multigpu_clones", None)  # its threads run without autograd
    to = options.setdefault("transformer_options", {})
    to["optimized_attention_override"] = differentiable
    wrappers = to.get("wrappers", {})
    to["wrappers"] = {kind: {k: f for k, f in keyed.items() if k not in FOREIGN} for kind, keyed in wrappers.items()}
    return options


def _apply_weight_hooks(patcher: object, cond: dict, sigma: torch.Tensor, options: dict) -> None:
    """Let the host patch the weights for this conditioning now: it writes in place, which needs inference mode."""
    hooks = cond.get("hooks")
    if hooks is None and patcher.current_hooks is None:
        return
    with torch.inference_mode():
        if hooks is not None:
            patcher.prepare_hook_patches_current_keyframe(sigma, hooks, options)
        patcher.apply_hooks(hooks=hooks)
