"""How well the attention of each layer agrees with highlights, on a model of the user's own: evidence for which layers
to look at."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch

from ..checks import number
from ..errors import LimelightError
from .architectures import family_of
from .losses import phrase_map, placement_loss
from .record import LOOSENESS, watched
from .scenes import Scene, scenes, tell_apart
from .step import size_of

WRAPPER = "limelight_layers"
BEST = 1 / 4  # share of the layers that are named as the best


@dataclass(frozen=True)
class LayerScore:
    """One layer, averaged over highlights and images. loss: `placement_loss` (0 is perfect). inside, outside: the
    phrase's share of the attention to the prompt's words, on its highlight and beyond its free band."""

    key: tuple[str, int, int]
    grid: tuple[int, int]
    loss: float
    inside: float
    outside: float


def rate_layers(model: Any, positive: list, latent: torch.Tensor, percent: float, seed: int = 0) -> list[LayerScore]:
    """Every layer with attention to words, in the order of execution.

    latent: of an image that has its objects where the highlights of ``positive`` say; it is noised up to ``percent`` of
    the schedule (0 pure noise, 1 the image) and shown to the model once. Raises LimelightError where there are no
    highlights, or the model is one that highlights cannot act on.
    """
    import comfy.sample
    from comfy.patcher_extension import WrappersMP

    percent = number(percent, "percent", 0.01, 0.99)
    network = model.model.diffusion_model
    family = family_of(network)
    model, found = model.clone(), []
    seen: dict[Any, Any] = {}

    def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        found.extend(scenes(guider.conds, size_of(noise, family), LOOSENESS))
        if not found:
            raise LimelightError(
                "positive: found no highlights; expected a conditioning of Highlight Prompt or Highlight Bind, with at "
                "least one highlight whose strength is not 0."
            )
        tell_apart(found, guider.conds)
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)

    def apply_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        options = transformer_options or {}
        uuids = list(options["uuids"])
        new = [scene for scene in found if scene.cond["uuid"] in uuids]
        each = x.shape[0] // len(uuids)
        rows = [slice(begin * each, (begin + 1) * each) for begin in (uuids.index(s.cond["uuid"]) for s in new)]
        blocks = family.all_blocks(network, *x.shape[-2:])
        options, ask = watched(options, family, network, blocks, new, rows, (x, c_crossattn, kwargs))
        out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        for scene, maps in zip(new, ask(), strict=True):
            for key, m in maps.items():
                seen.setdefault(key, []).append(_rated(m, scene))
        return out

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, WRAPPER, sampler_sample)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER, apply_model)
    latent = comfy.sample.fix_empty_latent_channels(model, latent)
    sigmas = torch.tensor([float(model.get_model_object("model_sampling").percent_to_sigma(percent)), 0.0])
    noise = comfy.sample.prepare_noise(latent, seed)
    common = {"disable_pbar": True, "seed": seed, "sigmas": sigmas}
    comfy.sample.sample(model, noise, 1, 1.0, "euler", "simple", positive, positive, latent, **common)
    if not seen:
        raise LimelightError(
            f"positive: its highlights are not in force at {percent:g} of the schedule. Remove its timestep range, or "
            "choose another percent."
        )
    return [_mean(key, rated) for key, rated in seen.items()]


def best_layers(scores: list[LayerScore]) -> list[LayerScore]:
    """The quarter of the layers with the lowest loss, in the order of execution."""
    limit = sorted(score.loss for score in scores)[ceil(BEST * len(scores)) - 1]
    return [score for score in scores if score.loss <= limit]


def name_of(key: tuple[str, int, int], keys: list[tuple[str, int, int]]) -> str:
    """The name of a layer by which `architectures.names.named` finds it. keys: of all layers."""
    part, place, index = key
    name = part if part == "middle" else f"{part} {place}"
    return f"{name}.{index}" if (part, place, 1) in keys else name


def layer_table(scores: list[LayerScore]) -> str:
    """A line for each layer; * for the best."""
    best, keys = best_layers(scores), [score.key for score in scores]
    lines = ["  layer          grid     loss  inside  outside"]
    for score in scores:
        h, w = score.grid
        mark = "*" if score in best else " "
        lines.append(
            f"{mark} {name_of(score.key, keys):13s} {f'{h}x{w}':>7s} {score.loss:7.3f} {score.inside:7.3f} "
            f"{score.outside:8.3f}"
        )
    return "\n".join(lines)


def _rated(maps: torch.Tensor, scene: Scene) -> tuple[tuple[int, int], torch.Tensor]:
    """maps (B, h, w, T) of one layer -> its grid, and loss, inside and outside of each highlight and image (3, m)."""
    grid, tokens = (maps.shape[1], maps.shape[2]), scene.bound["text_tokens"]
    targets = scene.targets(*grid, maps.device)
    shares = torch.stack([phrase_map(maps, target.tokens, tokens) for target in targets], 1)
    zones = [torch.stack([getattr(target, zone) for target in targets]) for zone in ("attract", "suppress")]
    means = [(shares * zone).sum((-2, -1)) / zone.sum((-2, -1)).clamp_min(1e-6) for zone in zones]
    return grid, torch.stack([placement_loss(maps, targets, tokens), *means]).flatten(1).cpu()


def _mean(key: tuple[str, int, int], rated: list[tuple[tuple[int, int], torch.Tensor]]) -> LayerScore:
    loss, inside, outside = torch.cat([values for _, values in rated], 1).mean(1).tolist()
    return LayerScore(key, rated[0][0], loss, inside, outside)
