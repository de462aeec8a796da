"""The node that keeps a subject from growing into the background that is painted around it."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.checks import number, window
from ..guidance.expansion.guard import BAND, END, MASK, SELF, STRENGTH, attach
from .schema import advanced, percent
from .tensors import masks


class LimelightExpansionGuard(io.ComfyNode):
    """MODEL -> MODEL whose background looks away from a kept subject while it takes shape."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightExpansionGuard",
            display_name="Expansion Guard",
            category="limelight/salient object",
            description="Paints a new background around a subject without growing the subject: while the picture takes "
            "shape, the background around it listens less to the subject's words and looks less at the subject. No "
            "training and no extra pass. For any UNet model: Stable Diffusion 1.x, 2.x and SDXL, with an inpainting "
            "model or a noise mask.",
            inputs=[
                io.Model.Input("model", tooltip="A UNet model, with LoRAs and patches as you like."),
                io.Mask.Input(
                    MASK,
                    tooltip="White = keep: the subject. One mask for all images of a batch, or one for each.",
                ),
                io.Float.Input(
                    "strength",
                    default=STRENGTH,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="The share of its attention to the subject that the background next to it loses. 0 turns "
                    "the guard off: the result is that without this node. Lower it if the subject seems to float.",
                ),
                percent(
                    "start_percent",
                    0.0,
                    "Where on the noise schedule the guard begins. 0 is pure noise: shapes are decided early, "
                    "so leave it at 0 as a rule.",
                ),
                percent(
                    "end_percent",
                    END,
                    "Where on the noise schedule the guard ends; it fades in the second half of the way there. "
                    "After that the background adapts to the subject freely: light, contact, shadow.",
                ),
                io.Float.Input(
                    "band",
                    default=BAND,
                    min=0.02,
                    max=1.0,
                    step=0.01,
                    tooltip="Width of the guarded band around the subject, as a share of the picture's shorter side. "
                    "The guard is full in its inner half and fades to nothing at its end.",
                ),
                io.String.Input(
                    "phrase",
                    default="",
                    optional=True,
                    tooltip="Which phrase of the prompt is the subject, if the positive conditioning has highlights "
                    "(Highlight Prompt). Empty: all of them. Without highlights the guard tells the subject's words "
                    "from where they act.",
                ),
                advanced(
                    io.Float.Input(
                        "cross_strength",
                        default=1.0,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        optional=True,
                        tooltip="Strength for the attention to the subject's words, times strength. 0: leave it.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "self_strength",
                        default=SELF,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        optional=True,
                        tooltip="Strength for the attention to the subject itself, times strength. 0: leave it.",
                    )
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The guarded model, for any sampler node.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        subject_mask,
        strength,
        start_percent,
        end_percent,
        band,
        phrase="",
        cross_strength=1.0,
        self_strength=SELF,
    ) -> io.NodeOutput:
        start_percent, end_percent = window(
            start_percent, end_percent, "nothing would be guarded", "turn the guard off"
        )
        guarded = attach(
            model,
            masks(subject_mask, MASK),
            strength=number(strength, "strength", 0.0, 1.0),
            start_percent=start_percent,
            end_percent=end_percent,
            width=number(band, "band", 0.02, 1.0),
            phrase=phrase.strip(),
            cross_strength=number(cross_strength, "cross_strength", 0.0, 1.0),
            self_strength=number(self_strength, "self_strength", 0.0, 1.0),
        )
        return io.NodeOutput(guarded)


NODES = [LimelightExpansionGuard]
