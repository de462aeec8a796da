"""Node that conditions an image on a saliency map, by a ControlNet that was trained for it."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance import checks
from ..guidance.saliency import control
from . import tensors
from .saliency_maps import CATEGORY, warn
from .schema import percent


class LimelightSaliencyApply(io.ComfyNode):
    """CONDITIONING twice + CONTROL_NET + saliency map -> CONDITIONING twice."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSaliencyApply",
            display_name="Apply Saliency ControlNet",
            category=CATEGORY,
            description="Makes an image that draws the eye as the map says, with a ControlNet trained on saliency "
            "maps, such as GazeFusion's. The whole map is fitted to the image, whatever its size.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The encoded prompt."),
                io.Conditioning.Input(
                    "negative", tooltip="The negative prompt. It gets the map too, as in GazeFusion."
                ),
                io.ControlNet.Input(
                    "control_net",
                    tooltip="From Load ControlNet Model. GazeFusion's is for Stable Diffusion 2.1; "
                    "python -m limelight.models.convert makes a small file of its checkpoint.",
                ),
                io.Mask.Input(
                    "saliency",
                    tooltip="Where viewers should look: one map, or one for each image of a batch. Its values count as "
                    "they are. Maps in GazeFusion's training had their peak at 1.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much the map counts. 1 is as in training; 0 is exactly without it.",
                ),
                percent(
                    "start_percent",
                    0.0,
                    "Where on the noise schedule the map begins to count. 0 is pure noise.",
                    step=0.001,
                ),
                percent(
                    "end_percent", 1.0, "Where on the noise schedule it ceases. 1 is the finished image.", step=0.001
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Only for ControlNets that take their picture encoded, such as those of Stable Diffusion 3 "
                    "and Flux.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt under the map."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt under the map."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        control_net,
        saliency,
        strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        vae=None,
    ) -> io.NodeOutput:
        maps = tensors.saliency(saliency, flat=False)
        strength = checks.number(strength, "strength", 0, 10)
        never = "the map would never count", "leave the map out"
        window = checks.window(start_percent, end_percent, *never)
        warn(maps)
        both = {"positive": positive, "negative": negative}
        return io.NodeOutput(*control.apply(both, control_net, maps, strength, window, vae))


NODES = [LimelightSaliencyApply]
