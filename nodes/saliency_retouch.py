"""The node that retouches a finished picture so that viewers look elsewhere."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.saliency import maps as saliency_maps
from ..guidance.saliency import retouch as saliency_retouch
from ..guidance.saliency.retouch import Amounts
from ..models.saliency import Predictor
from . import tensors
from .saliency_maps import CATEGORY
from .schema import SaliencyPredictor, advanced

ATTRACT, SUPPRESS = "attract", "suppress"


class LimelightAttentionRetouch(io.ComfyNode):
    """IMAGE + regions -> the same picture, with other light, colour and sharpness in the regions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightAttentionRetouch",
            display_name="Attention Retouch",
            category=CATEGORY,
            description="Draws the eye to one region of a finished picture, or away from another, by exposure, "
            "saturation, sharpness and blur alone. Nothing moves, and outside of the regions not a bit changes.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, or a batch; each is retouched by itself."),
                SaliencyPredictor.Input("predictor", tooltip="From Load Saliency Predictor: whose eyes are drawn."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Multiplies the four bounds below. 0 gives the picture as it was.",
                ),
                io.Float.Input(
                    "exposure",
                    default=Amounts.exposure,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How many stops lighter or darker a place may get.",
                ),
                io.Float.Input(
                    "saturation",
                    default=Amounts.saturation,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="By what share colours may get stronger or weaker. 1: from gray to twice as colourful.",
                ),
                io.Float.Input(
                    "sharpness",
                    default=Amounts.sharpness,
                    min=0.0,
                    max=3.0,
                    step=0.01,
                    tooltip="How much of the fine detail may be added. 1: twice as sharp.",
                ),
                io.Float.Input(
                    "blur",
                    default=100 * Amounts.blur,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="How blurred a place may get: standard deviation in percent of the short side.",
                ),
                io.Mask.Input("attract", optional=True, tooltip="White is what people should look at. Any size."),
                io.Mask.Input("suppress", optional=True, tooltip="White is what they should not look at. Any size."),
                SaliencyPredictor.Input(
                    "judge",
                    optional=True,
                    tooltip="Another predictor, which is only asked before and after: has the eye been drawn, or only "
                    "the first predictor pleased?",
                ),
                advanced(
                    io.Float.Input(
                        "feather",
                        optional=True,
                        default=3.0,
                        min=0.0,
                        max=20.0,
                        step=0.1,
                        tooltip="How softly changes begin inside a region's edge: standard deviation in percent of the "
                        "short side.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "steps", optional=True, default=30, min=1, max=200, tooltip="Steps of the search for changes."
                    )
                ),
                advanced(
                    io.Float.Input(
                        "predictor_scale",
                        optional=True,
                        default=0.5,
                        min=0.25,
                        max=3.0,
                        step=0.01,
                        tooltip="How large the picture appears to the predictor, 1 as a photograph on a desk.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The retouched picture, of the same size."),
                io.String.Output(display_name="json", tooltip="Attention shares of each region, before and after."),
                io.String.Output(display_name="table", tooltip="The same as text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image,
        predictor,
        strength=1.0,
        exposure=Amounts.exposure,
        saturation=Amounts.saturation,
        sharpness=Amounts.sharpness,
        blur=100 * Amounts.blur,
        attract=None,
        suppress=None,
        judge=None,
        feather=3.0,
        steps=30,
        predictor_scale=0.5,
    ) -> io.NodeOutput:
        eyes = {"predictor": predictor} | ({} if judge is None else {"judge": judge})
        for name, given in eyes.items():
            if not isinstance(given, Predictor):
                raise LimelightError(f"{name}: found {checks.show(given)}; expected one from Load Saliency Predictor.")
        amounts = Amounts(
            checks.number(exposure, "exposure", 0, 2),
            checks.number(saturation, "saturation", 0, 1),
            checks.number(sharpness, "sharpness", 0, 3),
            checks.number(blur, "blur", 0, 5) / 100,
        ).times(checks.number(strength, "strength", 0, 2))
        feather = checks.number(feather, "feather", 0, 20) / 100
        steps = checks.whole(steps, "steps", 1, 200)
        scale = checks.number(predictor_scale, "predictor_scale", 0.25, 3)
        pictures = tensors.rgb(image)
        if not pictures.isfinite().all():
            raise LimelightError("image: found values that are not numbers (NaN or infinite); expected 0 to 1.")
        regions = {ATTRACT: attract, SUPPRESS: suppress}
        regions = {name: _masks(mask, name, pictures) for name, mask in regions.items() if mask is not None}
        regions = {name: masks for name, masks in regions.items() if masks.any()}  # the editor gives both, one empty
        if not regions:
            raise LimelightError(
                "attract: found nothing white, nor in suppress; expected at least one region. Connect or paint one."
            )
        device, done, found = predictor.load(), [], []
        for i, picture in enumerate(pictures.movedim(-1, 1).split(1)):
            here = {name: masks[i : i + 1].to(device) for name, masks in regions.items()}
            wanted = here.get(ATTRACT), here.get(SUPPRESS)
            after = saliency_retouch.retouch(
                picture.to(device), predictor.network, wanted[0], wanted[1], amounts, steps, feather, scale
            ).to(picture.device)
            done.append(after)
            found.append({name: _shares(each, picture, after, here, scale) for name, each in eyes.items()})
        table = _table(found)
        made = torch.cat(done).movedim(1, -1).contiguous()
        return io.NodeOutput(made, json.dumps({"images": found}, indent=2), table, ui=ui.PreviewText(table))


NODES = [LimelightAttentionRetouch]


def _masks(mask: Any, name: str, pictures: torch.Tensor) -> torch.Tensor:
    """The region of each picture, (B, H, W) of its size."""
    read = saliency_maps.resize(tensors.saliency(mask, name), *pictures.shape[1:3])
    if len(read) not in (1, len(pictures)):
        raise LimelightError(
            f"{name}: found {len(read)} masks for {len(pictures)} images; expected one, or one for each."
        )
    return torch.from_numpy(np.broadcast_to(read, (len(pictures), *read.shape[1:])).copy())


def _shares(eyes: Predictor, before: torch.Tensor, after: torch.Tensor, masks: dict, scale: float) -> dict[str, dict]:
    """{region: {"area_share", "before", "after"}}."""
    sides = [saliency_retouch.shares(eyes, picture, masks, scale) for picture in (before, after)]
    return {
        name: {"area_share": float(mask.mean()), "before": sides[0][name], "after": sides[1][name]}
        for name, mask in masks.items()
    }


def _table(found: list[dict]) -> str:
    lines = []
    for i, one in enumerate(found, 1):
        for eyes, regions in one.items():
            for name, row in regions.items():
                shares = f"{100 * row['before']:.1f} % -> {100 * row['after']:.1f} %"
                lines.append(f"image {i}, {name}, by the {eyes}: {shares} (area {100 * row['area_share']:.1f} %)")
    return "\n".join(lines)
