"""Helpers of the guided step's tests: conditionings with highlights, and runs of the host's sampler."""

from __future__ import annotations

from types import SimpleNamespace

import torch

CIRCLE = ("red circle", [2, 3], [0.05, 0.05, 0.45, 0.45], 1.0)
BAR = ("blue bar", [5, 6], [0.55, 0.55, 0.95, 0.95], 1.0)
OWN = ("updates", "size", "stop_at", "separation", "layers", "shape", "propagate", "loss")  # settings of `Limelight`
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


def conditioning_for(model, *highlights, **options) -> list:
    """As `conditioning`, of the model's width, with the pooled text that SDXL asks for."""
    config = model.model.model_config.unet_config
    if config["adm_in_channels"]:
        options["pooled_output"] = noise(1, config["adm_in_channels"] - 6 * 256, seed=7)
    return conditioning(*highlights, width=config["context_dim"], **options)


def negative_for(positive: list) -> list:
    """A random CONDITIONING of the same shape, without highlights."""
    _, tokens, width = positive[0][0].shape
    pooled = {key: -value for key, value in positive[0][1].items() if key == "pooled_output"}
    return conditioning(seed=9, tokens=tokens, width=width, **pooled)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lora_names(model) -> dict[str, str]:
    """A LoRA's names of every cross-attention query -> the model's own."""
    return {
        "lora_unet_" + key.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_"): key
        for key in model.model.state_dict()
        if key.endswith("attn2.to_q.weight")
    }


def lora(model, seed: int = 3) -> dict[str, torch.Tensor]:
    """A random LoRA on every cross-attention query."""
    generator = torch.Generator().manual_seed(seed)
    weights, state = {}, model.model.state_dict()
    for name, key in lora_names(model).items():
        weights[f"{name}.lora_up.weight"] = torch.randn(state[key].shape[0], 2, generator=generator)
        weights[f"{name}.lora_down.weight"] = torch.randn(2, state[key].shape[1], generator=generator) * 0.2
    return weights


def lora_hook(model):
    """The same, which the host patches in for one conditioning while it samples."""
    import comfy.hooks
    import comfy.lora

    weights = lora(model)
    hooks = comfy.hooks.create_hook_lora(weights, 1.0, 1.0)
    for hook in hooks.hooks:
        hook.weights, hook.need_weight_init = comfy.lora.load_lora(weights, lora_names(model)), False
    return hooks


def with_override(model, override):
    """A clone of the model on which another pack has put its own attention."""
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


def sample(model, positive, x=None, sampler="euler", steps=3, cfg=3.0, mask=None, scheduler="normal") -> torch.Tensor:
    """A run of the host's KSampler from noise x (default 1 x 4 x 16 x 16), in inference mode as in a prompt."""
    import comfy.sample

    x = noise(1, 4, 16, 16) if x is None else x
    negative = negative_for(positive)
    with torch.inference_mode():
        latent = torch.zeros_like(x)
        common = {"noise_mask": mask, "seed": 0, "disable_pbar": True}
        return comfy.sample.sample(
            model, x, steps, cfg, sampler, scheduler, positive, negative, latent, **common
        ).clone()


def attach(model, **changes):
    """The guided step with settings that show an effect in few steps. changes: of `step.attach` or `Limelight`."""
    from limelight.guidance.attention import step

    return step.attach(model, method(changes), **{**EVERYWHERE, **changes})


def method(changes: dict):
    """A `Limelight` for tests; takes its own settings out of `changes`."""
    from limelight.guidance.attention.limelight import Limelight

    own = {key: changes.pop(key) for key in list(changes) if key in OWN}
    return Limelight(**{"updates": 2, "size": 0.05, "stop_at": 0.0, "separation": 0.0, "propagate": False, **own})


def prepared(model, positive, x: torch.Tensor, sigma: float = 5.0) -> SimpleNamespace:
    """A guider whose conditionings the host has prepared, as in the middle of a run: guider, scenes, sigma, options."""
    import comfy.model_management
    import comfy.samplers

    from limelight.guidance.attention.scenes import scenes

    with torch.inference_mode():
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative_for(positive))
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
    from limelight.guidance.attention.probe import Probe, differentiable_model

    steering = method(changes)
    probe = Probe(run.guider.inner_model.diffusion_model, run.scenes, steering, **changes)
    with torch.inference_mode(), differentiable_model(run.guider, [scene.cond for scene in run.scenes]):
        return probe.look(run.guider, x.clone(), run.sigma.clone(), run.options, 0.0)


def reference_look(model, run, x, layers="auto"):
    """The losses and gradient by plain autograd: ordinary weights, whole forward, maps from the layers' own outputs.

    -> losses (B, n), gradient, number of maps.
    """
    import copy

    from limelight.guidance.attention.architectures.unet import layout_blocks
    from limelight.guidance.attention.losses import placement_loss

    scene = run.scenes[0]
    grids = {block.key: block.grid for block in layout_blocks(model.model.diffusion_model, *scene.size, layers)}
    keys = set(grids)
    with torch.inference_mode(False):
        base = copy.copy(model.model)
        network = copy.deepcopy(model.model.diffusion_model)
        for module in network.modules():
            for name, value in list(module._parameters.items()):
                if value is not None:
                    module._parameters[name] = torch.nn.Parameter(value.clone(), requires_grad=False)
        base._modules = {**base._modules, "diffusion_model": network}
        seen, maps = {}, []

        def attention(key, heads):
            def keep_q(module, args, q):
                seen[key] = (q, (x.shape[-2], x.shape[-1]))

            def keep_k(module, args, k):
                q, _ = seen[key]
                b, n, c = q.shape
                split = [t.view(b, -1, heads, c // heads).permute(0, 2, 1, 3) for t in (q, k)]
                weights = torch.einsum("bhnd,bhmd->bhnm", *split) / (c // heads) ** 0.5
                grid = grids[key]
                maps.append(weights.softmax(-1).mean(1).view(b, *grid, -1))

            return keep_q, keep_k

        for name, blocks in (("input", network.input_blocks), ("output", network.output_blocks)):
            for number, layers in enumerate(blocks):
                _hook(layers, (name, number), keys, attention)
        _hook(network.middle_block, ("middle", 0), keys, attention)
        given = {name: value.cond for name, value in scene.cond["model_conds"].items() if torch.is_tensor(value.cond)}
        given = {name: value.clone().expand(len(x), *value.shape[1:]) for name, value in given.items()}
        leaf = x.clone().requires_grad_(True)
        with torch.enable_grad():
            base._apply_model(leaf, run.sigma.clone(), transformer_options={}, **given)
            targets = [scene.targets(*m.shape[1:3], m.device) for m in maps]
            tokens = scene.bound["text_tokens"]
            losses = torch.stack([placement_loss(m, t, tokens) for m, t in zip(maps, targets, strict=True)]).mean(0)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient, len(maps)


def _hook(layers, place, keys, attention):
    for layer in layers:
        for index, block in enumerate(getattr(layer, "transformer_blocks", ())):
            if (*place, index) in keys:
                keep_q, keep_k = attention((*place, index), block.n_heads)
                block.attn2.to_q.register_forward_hook(keep_q)
                block.attn2.to_k.register_forward_hook(keep_k)


def moved(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether b is finite and differs from a by more than rounding."""
    return bool(b.isfinite().all()) and not torch.allclose(a, b, atol=1e-3 * float(a.abs().max()))


def assert_close(found, expected, tolerance=1e-4):
    """Relative to the largest value."""
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def untouched(model) -> list:
    """Everything that a run could leave behind in a model: compare before and after."""
    network = model.model.diffusion_model
    modules = [(name, sorted(module.__dict__), len(module._forward_hooks)) for name, module in network.named_modules()]
    parameters = [(name, id(value), value._version) for name, value in _versioned(network)]
    return [modules, parameters, repr(model.model_options), repr(model.wrappers)]


def _versioned(network):
    # inference tensors keep no version: their values are compared through the outputs
    return ((name, value) for name, value in network.named_parameters() if not value.is_inference())
