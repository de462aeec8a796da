"""Saliency guidance through the model: the guided step with a predictor of where people look as its loss.

At the beginning of each step in a window of the schedule the model predicts the picture from the sampler's latent x, as
in sampling; the prediction is decoded, a predictor of where people look sees it, and x goes down the gradient of the
same loss as in `guidance`. The gradient passes the whole model, so that what can be moved is moved: things of the
prompt come to the place, where a change of the prediction alone would add what nobody asked for. It costs a forward and
a backward pass of the model for each update.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from ..attention import step
from ..attention.architectures import family_of
from ..attention.autograd import own_attention
from ..attention.capture import differentiable
from ..attention.descent import Descent
from ..attention.method import Method
from ..attention.probe import (
    LOSS_SCALE,
    Look,
    apply_weight_hooks,
    differentiable_model,
    grounding,
    probe_options,
    probed,
)
from ..errors import LimelightError
from .decoders import Decoder
from .guidance import END, START, Steps, Wish, augmented, check_latent, loss

KEY = "limelight_saliency_through"
SIZE = 0.03  # root mean square of an update, in units of a latent of variance 1
MEMORY = 4  # a graph of a whole pass holds several times what the pass needs


class _Sized(Method):
    """Updates of `SIZE`."""

    def __init__(self, steps: Steps) -> None:
        self._iterations = steps.iterations

    def iterations(self, percent: float) -> int:
        return self._iterations

    def step_size(self, percent: float) -> float:
        return SIZE


class PictureProbe:
    """Looks at the picture that the model predicts; the same to a `Descent` as a `Probe` is.

    mask, known: of the run's noise mask, as in `guidance.steer`.
    """

    phrases, strengths = ("attention",), (1.0,)

    def __init__(
        self,
        predictor: Any,
        decoder: Decoder,
        wish: Wish,
        steps: Steps,
        mask: torch.Tensor | None = None,
        known: torch.Tensor | None = None,
    ) -> None:
        self.network, self.decoder, self.wish, self.scale = predictor.network, decoder, wish, steps.scale
        self.mask, self.known = mask, known
        self.method, self.loss_scale, self._looks = _Sized(steps), LOSS_SCALE, 0

    def differentiable(self, guider: Any) -> AbstractContextManager:
        """Where looks have gradients."""
        networks = () if self.decoder.network is None else (self.decoder.network,)
        return differentiable_model(guider, guider.conds["positive"], *networks)

    def regions(self) -> dict:
        """No highlights, no regions."""
        return {}

    def look(
        self, guider: Any, x: torch.Tensor, sigma: torch.Tensor, options: dict, percent: float, iteration: int = 0
    ) -> Look:
        """x: (B, C, H, W), sigma: (B,). Runs outside inference mode; leaves nothing behind."""
        leaf = x.detach().clone().requires_grad_()
        with own_attention(grounding(guider.conds["positive"]), differentiable):
            shown = self._predicted(guider, leaf, sigma, options).float()
            if self.mask is not None and self.known is not None:
                mask, known = self.mask.to(shown).clone(), self.known.to(shown).clone()  # autograd saves them
                shown = shown * mask + known * (1 - mask)
            if shown.ndim == 5:  # an image among video latents
                shown = shown[:, :, 0]
            picture = augmented(self.decoder.decode(shown), self._looks)
            losses = loss(self.network.log_density(picture, self.scale), self.wish)
            (gradient,) = torch.autograd.grad(losses.sum() * self.loss_scale, leaf)
        self._looks += 1
        losses = losses.detach()[:, None]
        return Look(losses, torch.ones_like(losses, dtype=torch.bool), gradient.float() / self.loss_scale)

    def _predicted(self, guider: Any, x: torch.Tensor, sigma: torch.Tensor, options: dict) -> torch.Tensor:
        """The denoised picture with the guider's CFG. Only conditionings with the weight hooks of the first positive
        one take part: others would need other weights within one graph."""
        import comfy.samplers

        model = guider.inner_model
        cfg = float(getattr(guider, "cfg", 1.0))
        hooks = guider.conds["positive"][0].get("hooks")
        groups = []
        for name in ("positive", "negative") if cfg != 1 else ("positive",):
            kept = [cond for cond in guider.conds.get(name) or () if cond.get("hooks") is hooks]
            if kept:
                groups.append([probed(cond, options) for cond in kept])
        apply_weight_hooks(model.current_patcher, groups[0][0], sigma, options)
        probing = probe_options(options)
        patches = probing["transformer_options"].setdefault("patches", {})
        patches["input_block_patch_after_skip"] = [*patches.get("input_block_patch_after_skip", ()), _apart]
        found = comfy.samplers.calc_cond_batch(model, groups, x, sigma.clone(), probing)
        return found[0] if len(found) == 1 else found[1] + (found[0] - found[1]) * cfg


def _apart(h: torch.Tensor, _: dict) -> torch.Tensor:
    """A UNet adds what a ControlNet says to its skip connections in place: autograd must not have saved them."""
    return h.clone()


def attach(
    model: Any,
    predictor: Any,
    decoder: Decoder,
    wish: Wish,
    steps: Steps,
    start_percent: float = START,
    end_percent: float = END,
) -> Any:
    """MODEL -> a clone that is guided; strength 0: a plain clone. The arguments are those of `guidance.attach`.

    Raises LimelightError for models that no gradient can be had of.
    """
    try:
        family_of(model.model.diffusion_model)
    except LimelightError as error:
        raise LimelightError(
            f"model: found a {type(model.model.diffusion_model).__name__}, through which no gradient can be had here. "
            "Choose the method 'prediction only'."
        ) from error
    if steps.strength == 0:
        return step.without(model, KEY)

    def begin(guider: Any, noise: torch.Tensor, latent: torch.Tensor | None, mask: torch.Tensor | None) -> Descent:
        check_latent(noise, wish)
        probe = PictureProbe(predictor, decoder, wish, steps, mask, latent)
        return Descent(probe, steps.strength)

    def memory(conds: dict) -> int:
        predictor.load()  # before the host does: its weights must let gradients through
        return MEMORY

    guided = step.install(model, KEY, begin, memory, start_percent, end_percent)
    guided.set_additional_models(KEY, [p for p in (predictor.patcher, decoder.patcher) if p is not None])
    return guided
