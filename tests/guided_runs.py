"""Helpers of the guided step's tests: conditionings with highlights, and runs of the host's sampler."""

from __future__ import annotations

from types import SimpleNamespace

import torch

CIRCLE = ("red circle", [2, 3], [0.05, 0.05, 0.45, 0.45], 1.0)
BAR = ("blue bar", [5, 6], [0.55, 0.55, 0.95, 0.95], 1.0)
EVERYWHERE = {"start_percent": 0.0, "end_percent": 1.0}


def bound(*highlights) -> dict:
    """What Highlight Prompt puts on a conditioning. highlights: (phrase, tokens, box, strength)."""
    return {
        "version": 1,
        "text_tokens": sorted({1, 2, 3, 4, 5, 6, *(t for _, tokens, _, _ in highlights for t in tokens)}),
        "highlights": [
            {
                "phrase": phrase,
                "tokens": tokens,
                "strength": strength,
                "instances": [{"shapes": [{"type": "box", "box": box}]}],
            }
            for phrase, tokens, box, strength in highlights
        ],
    }


def conditioning(*highlights, tokens: int = 77, seed: int = 5, width: int = 64, **options) -> list:
    """A random CONDITIONING, with highlights if there are any."""
    context = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed))
    if highlights:
        options["limelight_highlights"] = bound(*highlights)
    return [[context, options]]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample(model, positive, x=None, sampler="euler", steps=3, cfg=3.0, mask=None, scheduler="normal") -> torch.Tensor:
    """A run of the host's KSampler from noise x (default 1 x 4 x 16 x 16), in inference mode as in a prompt."""
    import comfy.sample

    x = noise(1, 4, 16, 16) if x is None else x
    negative = conditioning(seed=9, tokens=positive[0][0].shape[1])
    with torch.inference_mode():
        latent = torch.zeros_like(x)
        common = {"noise_mask": mask, "seed": 0, "disable_pbar": True}
        return comfy.sample.sample(
            model, x, steps, cfg, sampler, scheduler, positive, negative, latent, **common
        ).clone()


def attach(model, **changes):
    """The guided step with settings that show an effect in few steps. changes: of `step.attach` or `Limelight`."""
    from limelight.guidance import step

    return step.attach(model, method(changes), **{**EVERYWHERE, **changes})


def method(changes: dict):
    """A `Limelight` for tests; takes its own settings out of `changes`."""
    from limelight.guidance.limelight import Limelight

    own = {
        key: changes.pop(key) for key in list(changes) if key in ("updates", "size", "stop_at", "separation", "loss")
    }
    return Limelight(**{"updates": 2, "size": 0.05, "stop_at": 0.0, **own})


def prepared(model, positive, x: torch.Tensor, sigma: float = 5.0) -> SimpleNamespace:
    """A guider whose conditionings the host has prepared, as in the middle of a run: guider, scenes, sigma, options."""
    import comfy.model_management
    import comfy.samplers

    from limelight.guidance.scenes import scenes

    with torch.inference_mode():
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, conditioning(seed=9))
        guider.conds = {name: [dict(cond) for cond in conds] for name, conds in guider.original_conds.items()}
        extra = [cond["control"] for cond in guider.conds["positive"] if "control" in cond]
        comfy.model_management.load_models_gpu([model, *(m for control in extra for m in control.get_models())])
        model.pre_run()
        guider.inner_model = model.model
        guider.conds = comfy.samplers.process_conds(model.model, x, guider.conds, x.device, x, None, 0)
    found = scenes(guider.conds, tuple(x.shape[-2:]), 1.0)
    sigmas = torch.full((x.shape[0],), sigma)
    return SimpleNamespace(guider=guider, scenes=found, sigma=sigmas, options={"transformer_options": {}})


def look(run: SimpleNamespace, x: torch.Tensor, **changes):
    """Losses (B, n) and gradient at x."""
    from limelight.guidance.probe import Probe, differentiable_model

    steering = method(changes)
    probe = Probe(run.guider.inner_model.diffusion_model, run.scenes, steering, **changes)
    with torch.inference_mode(), differentiable_model(run.guider, run.scenes):
        return probe.look(run.guider, x.clone(), run.sigma.clone(), run.options, 0.0)


def untouched(model) -> list:
    """Everything that a run could leave behind in a model: compare before and after."""
    network = model.model.diffusion_model
    modules = [(name, sorted(module.__dict__), len(module._forward_hooks)) for name, module in network.named_modules()]
    parameters = [(name, id(value), value._version) for name, value in _versioned(network)]
    return [modules, parameters, repr(model.model_options), repr(model.wrappers)]


def _versioned(network):
    # inference tensors keep no version: their values are compared through the outputs
    return ((name, value) for name, value in network.named_parameters() if not value.is_inference())
