"""Node that draws where viewers should look, as blobs, with the mouse, a pen or a finger. Its widget lives in web/."""

from __future__ import annotations

import json

import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.saliency import maps as saliency_maps
from ..guidance.saliency.pictures import heat
from . import canvas, tensors
from .saliency_maps import CATEGORY, warn
from .schema import drawn_by

# The example of GazeFusion's authors, so that a new node shows what a blob is.
EXAMPLE = {"x": 0.8, "y": 0.6, "sx": 0.2, "sy": 0.15, "angle": 0, "amplitude": 0.7, "mode": "attract"}
DEFAULT = json.dumps({"version": saliency_maps.VERSION, "blobs": [EXAMPLE]}, separators=(",", ":"))
OPACITY = 0.55  # of the heat in the preview


class LimelightSaliencyEditor(io.ComfyNode):
    """Drawing (JSON text) -> MASK saliency, MASK suppress, IMAGE preview, width, height."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSaliencyEditor",
            display_name="Saliency Editor",
            category=CATEGORY,
            description="Draw where viewers should look, and where not, as soft blobs on a canvas of the image's "
            "shape. Press ? in the canvas for its shortcuts.",
            inputs=[
                drawn_by(
                    io.String.Input(
                        "blobs",
                        default=DEFAULT,
                        socketless=True,
                        dynamic_prompts=False,  # the front end would take JSON's braces for {this|or that}
                        tooltip="The drawing. In an API prompt it is the document of the blobs as JSON text.",
                    ),
                    "LIMELIGHT_SALIENCY",
                ),
                *canvas.size_inputs(),
                canvas.background_input(),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="saliency",
                    tooltip="The map: bright where viewers should look, darker where blobs suppress.",
                ),
                io.Mask.Output(
                    display_name="suppress",
                    tooltip="Only the blobs that suppress: white is where viewers should not look.",
                ),
                io.Image.Output(display_name="preview", tooltip="The map as heat over the background or gray."),
                *canvas.size_outputs(),
            ],
        )

    @classmethod
    def execute(
        cls, blobs: str, width: int = 512, height: int = 512, background: torch.Tensor | None = None
    ) -> io.NodeOutput:
        width, height = canvas.side(width, "width"), canvas.side(height, "height")
        drawn = _read(blobs)
        spared = [{**blob, "mode": "attract"} for blob in drawn if blob["mode"] == "suppress"]
        saliency = saliency_maps.gaussians(drawn, height, width)
        suppress = saliency_maps.gaussians(spared, height, width)
        warn(saliency[None])
        picture, shown = canvas.underneath(background, height, width)
        preview = tensors.batch([heat(picture[0].numpy(), saliency, OPACITY)])
        masks = (torch.from_numpy(each)[None].clamp_(0, 1) for each in (saliency, suppress))
        return io.NodeOutput(*masks, preview, width, height, ui=shown)


NODES = [LimelightSaliencyEditor]


def _read(text: str) -> list[dict]:
    if isinstance(text, str) and not text.strip():
        return []
    return saliency_maps.parse_blobs(checks.json_text(text, "blobs", "the document of the blobs"))
