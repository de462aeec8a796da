"""Node that says how a picture is looked at."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.saliency import display as saliency_display
from . import tensors
from .schema import Display

CUSTOM = "as given below"


class LimelightViewingConditions(io.ComfyNode):
    """Size, distance, resolution -> pixels per degree and what follows from it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        size = {"min": 16, "max": 16384}
        return io.Schema(
            node_id="LimelightViewingConditions",
            display_name="Viewing Conditions",
            category="limelight/saliency",
            description="How large the picture appears to whoever looks at it. Turns a screen's size, distance and "
            "resolution into what other nodes need, and makes a saliency map fit another display.",
            inputs=[
                io.Combo.Input(
                    "display",
                    options=[CUSTOM, *saliency_display.PRESETS],
                    default="desktop",
                    tooltip=f"A typical display, or '{CUSTOM}'. The four values below count for the latter only.",
                ),
                io.Float.Input(
                    "width_cm",
                    default=60.0,
                    min=0.5,
                    max=100_000.0,
                    step=0.1,
                    tooltip="Width of the picture as it is shown, in centimetres.",
                ),
                io.Float.Input(
                    "distance_cm",
                    default=65.0,
                    min=1.0,
                    max=1_000_000.0,
                    step=0.1,
                    tooltip="From the eye to the picture, in centimetres.",
                ),
                io.Int.Input("width_px", default=2560, tooltip="Width of the picture in pixels.", **size),
                io.Int.Input("height_px", default=1440, tooltip="Height of the picture in pixels.", **size),
                io.Boolean.Input(
                    "reshape",
                    default=False,
                    tooltip="On: the saliency map gets this display's aspect. Off: it keeps its own size.",
                ),
                io.Mask.Input(
                    "saliency",
                    optional=True,
                    tooltip="A saliency map that is to fit this display: made softer where one degree is a larger part "
                    "of the picture than before.",
                ),
                Display.Input(
                    "made_for",
                    optional=True,
                    tooltip="The display that the saliency map was made for, from another Viewing Conditions. Left "
                    "empty, its edges are taken as perfectly sharp.",
                ),
            ],
            outputs=[
                Display.Output(display_name="display", tooltip="This display, for another node's 'made_for'."),
                io.Float.Output(
                    display_name="pixels_per_degree", tooltip="Pixels of the picture in one degree, at its middle."
                ),
                io.Float.Output(
                    display_name="blur", tooltip="One degree in percent of the short side, for blur and softness."
                ),
                io.Float.Output(
                    display_name="predictor_scale",
                    tooltip="For Predict Saliency: how much larger the picture appears than those that predictors were "
                    f"trained on, {saliency_display.SCALES[0]:g} to {saliency_display.SCALES[1]:g}.",
                ),
                io.Mask.Output(display_name="saliency", tooltip="The saliency map for this display, if one is given."),
            ],
        )

    @classmethod
    def execute(
        cls,
        display="desktop",
        width_cm=60.0,
        distance_cm=65.0,
        width_px=2560,
        height_px=1440,
        reshape=False,
        saliency=None,
        made_for=None,
    ) -> io.NodeOutput:
        if display == CUSTOM:
            shown = saliency_display.Display(width_cm, distance_cm, width_px, height_px).checked()
        elif display in saliency_display.PRESETS:
            shown = saliency_display.PRESETS[display]
        else:
            known = ", ".join([CUSTOM, *saliency_display.PRESETS])
            raise LimelightError(f"display: found {checks.show(display)}; expected one of {known}.")
        if saliency is None:
            fitted = ExecutionBlocker("Viewing Conditions has no saliency map to pass on: connect one to its input.")
        else:
            maps = tensors.saliency(saliency)
            fitted = torch.from_numpy(saliency_display.retarget(maps, shown, made_for, reshape))
        return io.NodeOutput(shown, shown.pixels_per_degree, 100 * shown.degree, shown.predictor_scale, fitted)


NODES = [LimelightViewingConditions]
