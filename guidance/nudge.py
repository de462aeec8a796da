"""Moving what the model predicts while it samples: a post-CFG function in a window of the noise schedule.

Nothing is propagated through the model, so it works with every architecture, prediction type and sampler that the host
has. What moves a prediction, and by how much at most, is the caller's business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .errors import LimelightError

Move = Callable[[torch.Tensor, "torch.Tensor | None", "torch.Tensor | None"], torch.Tensor]
"""(predicted, mask, known) -> moved. predicted: (B, C, h, w) of the model's latent space. mask: (B, 1 or C, h, w), 1
where the sampler uses the prediction; known: the latent that is kept elsewhere. Both None without a noise mask."""


def attach(
    model: Any,
    key: str,
    what: str,
    move: Move,
    check: Callable[[torch.Tensor], None],
    start_percent: float,
    end_percent: float,
    load: Callable[[], object] = lambda: None,
    patchers: Sequence[Any] = (),
    memory: dict | None = None,
) -> Any:
    """MODEL -> a clone whose predictions `move` changes.

    key: of our own entries in the model. what: for the log. check: is given the run's noise before the first step, to
    raise LimelightError. start_percent, end_percent: the part of the noise schedule, 0 = pure noise, 1 = the finished
    image; both ends belong to it. load: called before the host loads models, inside its inference mode. patchers:
    models that the host is to load beside the sampled one. memory: what `move` keeps from call to call; emptied before
    and after each run.
    """
    from comfy.patcher_extension import WrappersMP

    model, memory = model.clone(), {} if memory is None else memory
    runs: list[Run] = []  # the run in progress; shared by everyone who samples with this model, one after another

    def prepare_sampling(executor, *args, **kwargs):
        load()
        return executor(*args, **kwargs)

    def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image=None, mask=None, *rest, **k):
        check(noise)
        sampling = guider.inner_model.model_sampling
        window = [float(sampling.percent_to_sigma(p)) for p in (start_percent, end_percent)]
        runs.append(Run(guider.inner_model, window, mask, latent_image))
        memory.clear()
        try:
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, mask, *rest, **k)
        finally:
            memory.clear()
            logging.info("Limelight: %s guided %d calls of the model.", what, runs.pop().calls)

    def post_cfg(args: dict) -> torch.Tensor:
        predicted, run = args["denoised"], runs[-1] if runs else None
        if run is None or run.model is not args["model"] or not run.guides(float(args["sigma"].flatten()[0])):
            return predicted
        return run.moved(predicted, move)

    for kind, wrapper in (
        (WrappersMP.PREPARE_SAMPLING, prepare_sampling),
        (WrappersMP.SAMPLER_SAMPLE, sampler_sample),
    ):
        model.add_wrapper_with_key(kind, key, wrapper)
    model.set_additional_models(key, [*model.get_additional_models_with_key(key), *patchers])
    model.set_model_sampler_post_cfg_function(post_cfg)
    return model


def check_image(latent: torch.Tensor, what: str, name: str = "latent") -> None:
    """Raises LimelightError for latents that are no images. An image among video latents, (B, C, 1, h, w), is one.

    what: the guidance, name: the input, for errors.
    """
    video = latent.ndim == 5 and latent.shape[2] > 1
    if getattr(latent, "is_nested", False) or latent.ndim not in (4, 5) or video:
        raise LimelightError(
            f"{name}: found {latent.shape[2]} frames; {what} works on images. Connect an image latent."
            if video
            else f"{name}: found one of {latent.ndim} dimensions; expected an image latent (batch, channels, height, "
            "width)."
        )


class Run:
    """State of one sampling run. window: sigmas of its beginning and end. mask, known: the host's noise mask and the
    latent outside of it."""

    def __init__(self, model: Any, window: list[float], mask: torch.Tensor | None, known: torch.Tensor | None):
        self.model, (self.high, self.low), self.calls = model, window, 0
        self.mask, self.known = mask, known if mask is not None else None

    def guides(self, sigma: float) -> bool:
        return self.low <= sigma <= self.high

    def moved(self, predicted: torch.Tensor, move: Move) -> torch.Tensor:
        """An image among video latents, (B, C, 1, h, w), is moved as any other."""
        self.calls += 1
        given = [predicted, self.mask, self.known]
        if predicted.ndim == 5:
            given = [None if value is None else value[:, :, 0] for value in given]
        given = [None if v is None else v.expand(len(predicted), *v.shape[1:]).to(predicted.device) for v in given]
        moved = move(*given)
        return moved[:, :, None] if predicted.ndim == 5 else moved
