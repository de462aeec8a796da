"""The node that runs published ways of steering, for people who know their papers and for comparisons."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.attention.published import METHODS, attach_published
from ..guidance.checks import number
from ..guidance.errors import LimelightError


class LimelightHighlightPublished(io.ComfyNode):
    """MODEL -> MODEL that is steered as a paper's code steers it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightHighlightPublished",
            display_name="Highlight Guidance (Published Methods)",
            category="limelight/highlight",
            description="Published methods by name, with the losses, constants, schedules and known bugs of their "
            "authors' code: Highlight-Guided Diffusion, Scribble-Guided Diffusion, Attention Refocusing, BoxDiff, "
            "layout guidance, TraDiffusion, Attend-and-Excite. For comparisons; Highlight Guidance is faster and "
            "follows highlights better. Swap one node for the other: both read the same highlights.",
            inputs=[
                io.Model.Input("model", tooltip="A UNet model, with LoRAs and patches as you like."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    tooltip="The paper whose method steers. Its boxes and strokes are made from the highlights.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Multiplies the published step size. 1 is the published one, 0 turns the method off.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The guided model, for any sampler node.")],
        )

    @classmethod
    def execute(cls, model, method, strength) -> io.NodeOutput:
        if method not in METHODS:
            raise LimelightError(f"method: found {method!r}, expected one of {', '.join(METHODS)}.")
        return io.NodeOutput(attach_published(model, method, number(strength, "strength", 0.0, 10.0)))


NODES = [LimelightHighlightPublished]
