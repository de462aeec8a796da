"""The node that rates a model's layers by their attention."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..guidance.attention.layers import best_layers, layer_table, name_of, rate_layers
from ..guidance.checks import whole
from ..guidance.errors import LimelightError


class LimelightLayerReport(io.ComfyNode):
    """MODEL + highlighted CONDITIONING + LATENT -> how well each layer's attention agrees with the highlights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightLayerReport",
            display_name="Layer Report",
            category="limelight/highlight",
            description="Shows the model an image that has its objects where the highlights say, with some noise, and "
            "rates each layer by where its attention to the highlighted phrases lies. The best are candidates for "
            "layers of Highlight Guidance.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model whose layers are rated. Its weights stay as they are."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt of the image with its highlights (Highlight Prompt)."
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="The image, encoded or fresh from a sampler. Its objects must be where the highlights say, "
                    "or the figures mean nothing.",
                ),
                io.Float.Input(
                    "percent",
                    default=0.2,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    tooltip="How much noise is added, as a place on the noise schedule: near 0 is pure noise, near 1 "
                    "the image. Guidance acts from 0 to 0.3.",
                ),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Of the noise."),
            ],
            outputs=[
                io.String.Output(
                    display_name="table",
                    tooltip="A line for each layer: loss (0 is perfect), and the phrase's share of the attention on "
                    "its highlight and far from it.",
                ),
                io.String.Output(
                    display_name="best", tooltip="Names of the best quarter, for layers of Highlight Guidance."
                ),
            ],
        )

    @classmethod
    def execute(cls, model, positive, latent, percent=0.2, seed=0) -> io.NodeOutput:
        if not isinstance(latent, dict) or "samples" not in latent:
            raise LimelightError("latent: found no samples; connect a VAE Encode or a sampler.")
        seed = whole(seed, "seed", 0, 2**64 - 1)
        scores = rate_layers(model, positive, latent["samples"], percent, seed)
        keys = [score.key for score in scores]
        table = layer_table(scores)
        best = ", ".join(name_of(score.key, keys) for score in best_layers(scores))
        return io.NodeOutput(table, best, ui=ui.PreviewText(table))


NODES = [LimelightLayerReport]
