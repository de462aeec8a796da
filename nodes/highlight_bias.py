"""The node that leans a model's attention towards highlights."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.attention.bias import LOOSENESS, attach
from ..guidance.attention.bias_methods import METHODS
from ..guidance.checks import number, window
from ..guidance.errors import LimelightError
from .schema import advanced, percent

DEFAULT = "limelight"


class LimelightHighlightBias(io.ComfyNode):
    """MODEL -> MODEL whose attention leans towards the places of highlighted phrases."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightHighlightBias",
            display_name="Highlight Bias",
            category="limelight/highlight",
            description="While sampling, makes each place of the image listen to the phrase that is highlighted there, "
            "and to no phrase that is highlighted elsewhere. Costs next to nothing. The highlights come with the "
            "positive conditioning (Highlight Prompt). By itself, or together with Highlight Guidance, which is "
            "slower and more exact. UNets (SD 1.x, 2.x, SDXL) and "
            "transformers (SD 3, Flux, Flux.2, Chroma, Lumina 2, Z-Image, Qwen-Image; single images of Wan, LTX-Video "
            "and Cosmos Predict2).",
            inputs=[
                io.Model.Input("model", tooltip="The model, with LoRAs and patches as you like."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How far attention is moved. 0 turns the bias off: the result is that without this node. "
                    "Lower it if objects look pasted in or too plain.",
                ),
                percent(
                    "start_percent",
                    0.0,
                    "Where on the noise schedule the bias begins. 0 is pure noise: places are decided early, "
                    "so leave it at 0 as a rule.",
                ),
                percent(
                    "end_percent",
                    METHODS[DEFAULT].end_percent,
                    "Where on the noise schedule the bias ends, and the model is left to itself. The published "
                    "methods end at 0.3.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=DEFAULT,
                    tooltip="limelight: each phrase gets at least nine tenths of the attention on its highlight and "
                    "none far from it. densediffusion: the published modulation of every attention layer, slower. "
                    "bounded: only keeps highlights from seeing each other, for prompts whose objects mix. regions: "
                    "hard borders, a phrase counts seven times on its highlight and not at all far from it. Diffusion "
                    "transformers: limelight with fixed amounts, or regions, which keeps fast attention.",
                ),
                advanced(
                    io.Float.Input(
                        "cross_strength",
                        default=1.0,
                        min=0.0,
                        max=2.0,
                        step=0.05,
                        optional=True,
                        tooltip="Strength for the attention of the image to the words, times strength. 0: leave it.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "self_strength",
                        default=1.0,
                        min=0.0,
                        max=2.0,
                        step=0.05,
                        optional=True,
                        tooltip="Strength for the attention of the image to itself, times strength. 0: leave it. In "
                        "diffusion transformers it is always left.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "looseness",
                        default=LOOSENESS,
                        min=0.0,
                        max=20.0,
                        step=0.1,
                        optional=True,
                        tooltip="Width of the free band around a highlight into which its object may grow. 0: none, "
                        "the object has to stay inside.",
                    )
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The biased model, for any sampler node.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        strength,
        start_percent,
        end_percent,
        method=DEFAULT,
        cross_strength=1.0,
        self_strength=1.0,
        looseness=LOOSENESS,
    ) -> io.NodeOutput:
        start_percent, end_percent = window(start_percent, end_percent, "nothing would be biased", "turn the bias off")
        if method not in METHODS:
            raise LimelightError(f"method: found {method!r}; expected one of {', '.join(METHODS)}.")
        biased = attach(
            model,
            strength=number(strength, "strength", 0.0, 2.0),
            start_percent=start_percent,
            end_percent=end_percent,
            method=method,
            cross_strength=number(cross_strength, "cross_strength", 0.0, 2.0),
            self_strength=number(self_strength, "self_strength", 0.0, 2.0),
            looseness=number(looseness, "looseness", 0.0, 20.0),
        )
        return io.NodeOutput(biased)


NODES = [LimelightHighlightBias]
