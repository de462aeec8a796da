"""The guided step: while sampling, move the latent so that each phrase's attention lies where its highlight says.

Two keyed wrappers on a clone of the model; the sampler and its node stay as they are. The first hands the sampler a
proxy of the model that remembers the sampler's own x. The second, at the beginning of each step in the window, probes
the model with the positive conditioning only (up to its last coarse attention), descends the losses of `losses.py` in
x, and adds the update to the sampler's x; then the step goes on as usual.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch

from ..errors import LimelightError
from ..prompts.binding import KEY
from .architectures import family_of, unet
from .descent import Descent
from .limelight import Limelight
from .method import Method
from .probe import Probe
from .propagation import REGIONS
from .samplers import guided_calls, keeps_edits
from .scenes import scenes

WRAPPER = "limelight_guidance"
SCORE_LIMIT = 8.0  # of the factor that turns an update of x into one of the prediction
MEMORY = 2  # a graph holds about as much again as a pass needs


def attach(
    model,
    method: Method | None = None,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float | None = None,
    looseness: float = 1.0,
    checkpoint: bool = False,
):
    """MODEL -> a clone that follows the highlights on the positive conditioning. `strength` 0: a plain clone.

    method: the way of steering, by default `Limelight()`. strength: multiplies every update.
    start_percent, end_percent: the guided part of the noise schedule, 0 = pure noise, 1 = the finished image; by
    default up to where the method ends. looseness: width of the free band around strokes. checkpoint: less memory,
    slower.
    """
    method = method or Limelight()
    end_percent = method.end_percent if end_percent is None else end_percent
    network = model.model.diffusion_model
    check(network, method)
    method.layout(network, 64, 64)  # at any size: an error now if the model does not have the layers that were named
    if strength == 0:
        return without(model, WRAPPER)

    def begin(guider, noise: torch.Tensor, *_) -> Descent | None:
        network = guider.inner_model.diffusion_model
        family = check(network, method)
        found = scenes(guider.conds, size_of(noise, family), looseness)
        if not found:
            logging.info("Limelight: the positive conditioning carries no highlights; sampling is not guided.")
            return None
        return Descent(Probe(network, found, method, checkpoint), strength)

    def memory(conds: dict) -> int:
        return MEMORY if any(KEY in cond for cond in conds.get("positive", ())) else 1

    return install(model, WRAPPER, begin, memory, start_percent, end_percent)


def without(model, key: str):
    """MODEL -> a clone without the guidance of this key."""
    from comfy.patcher_extension import WrappersMP

    model = model.clone()
    for kind in (WrappersMP.SAMPLER_SAMPLE, WrappersMP.PREDICT_NOISE, WrappersMP.PREPARE_SAMPLING):
        model.remove_wrappers_with_key(kind, key)
    return model


def install(model, key: str, begin: Callable, memory: Callable, start_percent: float, end_percent: float):
    """MODEL -> a clone whose latent is moved at the beginning of each step in the window.

    key: of the wrappers; a second guidance with it replaces the first. begin(guider, noise, latent, mask) -> the
    `Descent` of a run, or None if there is nothing to do; latent, mask: of the host's noise mask. memory(conds) -> how
    many times the memory of a plain pass a run needs; called before the host loads models.
    """
    model = without(model, key)
    from comfy.patcher_extension import WrappersMP

    runs: list[_Run] = []  # the run in progress; shared by everyone who samples with this model, one after another

    def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image=None, mask=None, *rest, **k):
        def sample():
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, mask, *rest, **k)

        descent = begin(guider, noise, latent_image, mask)
        if descent is None:
            return sample()
        window = [float(guider.inner_model.model_sampling.percent_to_sigma(p)) for p in (start_percent, end_percent)]
        run = _Run(guider, executor.class_obj, sigmas, window, descent)
        runs.append(run)
        executor.original = run.sampler().sample
        try:
            return sample()
        finally:
            runs.remove(run)
            logging.info("Limelight: %s", run.report())

    def predict_noise(executor, x, timestep, model_options=None, seed=None):
        options = model_options or {}
        if not runs or runs[-1].guider is not executor.class_obj:
            return executor(x, timestep, options, seed)
        run = runs[-1]
        return run.predict(lambda x: executor(x, timestep, run.with_regions(options), seed), x, timestep, options)

    def prepare_sampling(executor, patcher, noise_shape, conds, *args, **kwargs):
        return executor(patcher, [memory(conds) * noise_shape[0], *noise_shape[1:]], conds, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, sampler_sample)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, key, predict_noise)
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, key, prepare_sampling)
    return model


def check(network: torch.nn.Module, method: Method):
    """The adapter of a network that `method` can steer; raises a LimelightError for others."""
    family = family_of(network)
    if family is not unet and not method.transformers:
        raise LimelightError(
            f"model: found a {type(network).__name__}; this method works on UNets (Stable Diffusion 1.x, 2.x, SDXL). "
            "For diffusion transformers use Highlight Guidance or Highlight Bias."
        )
    return family


def size_of(noise: torch.Tensor, family: object = unet) -> tuple[int, int]:
    """(h, w) of a run's noise. A transformer's image may come as a film of one frame, (B, C, 1, h, w)."""
    if noise.ndim != 4 and (family is unet or noise.ndim != 5 or noise.shape[2] != 1):
        frames = f" (a film of {noise.shape[2]} frames)" if noise.ndim == 5 else ""
        raise LimelightError(
            f"latent: found {noise.ndim} dimensions{frames}, expected 4 (batch, channels, height, width). Highlights "
            "work on images; connect an image latent, or a film of length 1."
        )
    return tuple(noise.shape[-2:])


class _Run:
    """State of one sampling run."""

    def __init__(self, guider, sampler, sigmas: torch.Tensor, window: list[float], descent: Descent):
        self.guider, self.original = guider, sampler
        self.sigmas = [float(sigma) for sigma in sigmas]
        self.high, self.low = window
        self.descent = descent
        self.in_place = keeps_edits(sampler)
        self.calls = guided_calls(sampler, len(self.sigmas) - 1, self.sigmas[-1] == 0) if self.in_place else None
        self.x: torch.Tensor | None = None  # the sampler's own tensor during a call of the model
        self.mask: torch.Tensor | None = None

    def sampler(self):
        """The sampler, handing its function the remembering proxy. A copy: the SAMPLER is a cached node output."""
        if not hasattr(self.original, "sampler_function"):
            return self.original
        sampler, function = copy.copy(self.original), self.original.sampler_function
        sampler.sampler_function = lambda model, *args, **kwargs: function(_RememberX(model, self), *args, **kwargs)
        return sampler

    def predict(self, denoise: Callable, x: torch.Tensor, timestep: torch.Tensor, options: dict) -> torch.Tensor:
        begins_step = next(self.calls) if self.calls is not None else True
        sigma = float(timestep[0])
        if not (begins_step and self.low <= sigma <= self.high):
            return denoise(x)
        with self.descent.probe.differentiable(self.guider):
            update = self.descent.update(self.guider, x, timestep, options, self.mask)
        if update is None:
            return denoise(x)
        if not self.in_place:
            return denoise(x + update) + self._score_factor(sigma) * update
        if self.x is None or self.x is x:
            return denoise(x.add_(update))
        self.x.add_(update)  # with a noise mask the model sees a blend of the sampler's x
        return denoise(x + update)

    def with_regions(self, options: dict) -> dict:
        """The model options with the regions that have grown so far in them, for whoever follows them."""
        regions = self.descent.probe.regions()
        if not regions:
            return options
        return {**options, "transformer_options": {**options.get("transformer_options", {}), REGIONS: regions}}

    def _score_factor(self, sigma: float) -> float:
        """What an update of x is worth in the prediction D: one Euler step from D + factor * update ends where one
        from x + update does. Other solvers extrapolate D, so its size is limited."""
        following = next((s for s in self.sigmas if s < sigma * (1 - 1e-6)), 0.0)
        return min(following / (sigma - following), SCORE_LIMIT) if sigma > following else 0.0

    def report(self) -> str:
        how = "" if self.in_place else " through the prediction (this sampler keeps its latent to itself)"
        return f"{self.descent.report(len(self.sigmas) - 1)}{how}"


class _RememberX:
    """Stands in for the host's KSamplerX0Inpaint and remembers the tensor that the sampler calls it with."""

    def __init__(self, inner: object, run: _Run) -> None:
        self.__dict__.update(_inner=inner, _run=run)

    def __getattr__(self, name: str):
        return getattr(self.__dict__["_inner"], name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self.__dict__["_inner"], name, value)

    def __call__(self, x, sigma, denoise_mask=None, model_options=None, **kwargs):
        inner, run = self.__dict__["_inner"], self.__dict__["_run"]
        model_options = dict(model_options or {})
        run.x, run.mask = x, denoise_mask
        adjust = model_options.get("denoise_mask_function")
        if adjust is not None:  # differential diffusion: the mask that is in force at this sigma

            def remember(*args, **kwargs):
                run.mask = adjust(*args, **kwargs)
                return run.mask

            model_options["denoise_mask_function"] = remember
        try:
            return inner(x, sigma, denoise_mask=denoise_mask, model_options=model_options, **kwargs)
        finally:
            run.x = run.mask = None
