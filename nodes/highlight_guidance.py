"""The node that makes a model follow highlights while sampling."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.attention.architectures.names import AUTO
from ..guidance.attention.limelight import Limelight
from ..guidance.attention.step import attach
from ..guidance.checks import number, whole, window
from .schema import advanced, percent


class LimelightHighlightGuidance(io.ComfyNode):
    """MODEL -> MODEL that moves the attention of highlighted phrases to their places."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightHighlightGuidance",
            display_name="Highlight Guidance",
            category="limelight/highlight",
            description="While sampling, moves the latent so that each highlighted phrase draws its attention where "
            "its highlight says. The highlights come with the positive conditioning (Highlight Prompt). Works with "
            "any sampler; needs no training. UNets (SD 1.x, 2.x, SDXL) and "
            "transformers (SD 3, Flux, Flux.2, Chroma, Lumina 2, Z-Image, Qwen-Image).",
            inputs=[
                io.Model.Input("model", tooltip="The model, with LoRAs and patches as you like."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How far each update moves the latent. 0 turns guidance off: the result is that without "
                    "this node. Above 2 the image may suffer.",
                ),
                percent(
                    "start_percent",
                    0.0,
                    "Where on the noise schedule guidance begins. 0 is pure noise: places are decided early, "
                    "so leave it at 0 as a rule.",
                ),
                percent(
                    "end_percent",
                    Limelight.end_percent,
                    "Where on the noise schedule guidance ends. Later is slower and may cost fine detail.",
                ),
                io.Int.Input(
                    "iterations",
                    default=Limelight.updates,
                    min=1,
                    max=20,
                    tooltip="Updates in each guided step, at most. Each costs less than a sampling step. Fewer are "
                    "made once the highlights are satisfied.",
                ),
                advanced(
                    io.Float.Input(
                        "step_size",
                        default=Limelight.size,
                        min=0.001,
                        max=1.0,
                        step=0.001,
                        round=0.001,
                        tooltip="Size of one update before strength, as a share of the latent's standard deviation.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "stop_at",
                        default=Limelight.stop_at,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        tooltip="A highlight whose loss is below this counts as satisfied and is left alone. 0: never.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "looseness",
                        default=1.0,
                        min=0.0,
                        max=20.0,
                        step=0.1,
                        tooltip="Width of the free band around a highlight into which its object may grow. 0: none, "
                        "the object has to stay inside.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "separation",
                        default=Limelight.separation,
                        min=0.0,
                        max=10.0,
                        step=0.05,
                        tooltip="How much highlighted objects are kept from blending into each other, through "
                        "self-attention. 0: off. Not in diffusion transformers.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "save_memory",
                        default=False,
                        tooltip="Compute parts of the model a second time instead of keeping them in memory. Slower; "
                        "turn it on if guidance runs out of memory.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "layers",
                        default=AUTO,
                        optional=True,
                        tooltip="Which cross-attention layers are looked at. auto: those that place objects in this "
                        "model. Or names such as 'output 0.1-6, middle' or 'double 6-18'; a name that the model "
                        "does not have is answered with a list of those it has.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "shape",
                        default=Limelight.shape,
                        min=0.0,
                        max=10.0,
                        step=0.05,
                        optional=True,
                        tooltip="How much the orientation and extent of each object's attention must match its region, "
                        "beside its place. 0: off.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "propagate",
                        default=Limelight.propagate,
                        optional=True,
                        tooltip="Let a thin stroke grow into the object that forms along it, as seen in the model's "
                        "self-attention. It never leaves the free band. Not in diffusion transformers.",
                    )
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The guided model, for any sampler node.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        strength,
        start_percent,
        end_percent,
        iterations,
        step_size=Limelight.size,
        stop_at=Limelight.stop_at,
        looseness=1.0,
        separation=Limelight.separation,
        save_memory=False,
        layers=AUTO,
        shape=Limelight.shape,
        propagate=Limelight.propagate,
    ) -> io.NodeOutput:
        start_percent, end_percent = window(start_percent, end_percent, "nothing would be guided", "turn guidance off")
        method = Limelight(
            updates=whole(iterations, "iterations", 1, 20),
            size=number(step_size, "step_size", 0.001, 1.0),
            stop_at=number(stop_at, "stop_at", 0.0, 1.0),
            separation=number(separation, "separation", 0.0, 10.0),
            shape=number(shape, "shape", 0.0, 10.0),
            propagate=bool(propagate),
            layers=layers,
        )
        guided = attach(
            model,
            method,
            strength=number(strength, "strength", 0.0, 10.0),
            start_percent=start_percent,
            end_percent=end_percent,
            looseness=number(looseness, "looseness", 0.0, 20.0),
            checkpoint=bool(save_memory),
        )
        return io.NodeOutput(guided)


NODES = [LimelightHighlightGuidance]
