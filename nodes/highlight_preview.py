"""Node that shows the region document (HIGHLIGHTS)."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..guidance import checks
from ..guidance.regions import document, overlay
from . import tensors
from .schema import Highlights, advanced


class LimelightHighlightPreview(io.ComfyNode):
    """HIGHLIGHTS (+ IMAGE) -> IMAGE with the regions drawn."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        size = {"default": 512, "min": 16, "max": 4096, "step": 8}
        return io.Schema(
            node_id="LimelightHighlightPreview",
            display_name="Highlight Preview",
            category="limelight/highlight",
            description="Draws every highlight in its colour, with outline and phrase, over images or a gray canvas.",
            is_output_node=True,
            inputs=[
                Highlights.Input("highlights", tooltip="The highlights to draw."),
                io.Image.Input(
                    "image", optional=True, tooltip="Images to draw over, for instance the result. May be left empty."
                ),
                io.Int.Input("width", tooltip="Width in pixels of the gray canvas. Not used with an image.", **size),
                io.Int.Input("height", tooltip="Height in pixels of the gray canvas. Not used with an image.", **size),
                advanced(
                    io.Float.Input(
                        "opacity",
                        optional=True,
                        default=0.45,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        tooltip="How strongly the regions are filled: 0 leaves only outlines and phrases.",
                    )
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The images with the highlights drawn over them.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls,
        highlights: dict,
        width: int = 512,
        height: int = 512,
        opacity: float = 0.45,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        read = document.parse(highlights)
        opacity = checks.number(opacity, "opacity", 0, 1)
        if image is None:
            rows, columns = checks.whole(height, "height", 16, 4096), checks.whole(width, "width", 16, 4096)
            image = torch.full((1, rows, columns, 3), 0.5)
        image = tensors.rgb(image)
        colour, alpha = overlay.draw_overlay(read, image.shape[1], image.shape[2], opacity)
        picture = image * (1 - torch.from_numpy(alpha).to(image)) + torch.from_numpy(colour).to(image)
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))


NODES = [LimelightHighlightPreview]
