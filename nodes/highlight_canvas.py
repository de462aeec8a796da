"""Node that draws the region document (HIGHLIGHTS) with the mouse, a pen or a finger. Its widget lives in web/."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance.regions import overlay, raster
from ..guidance.regions.document import Document, Highlight, parse_text
from . import canvas
from .schema import Highlights, drawn_by

EMPTY = Document().to_json()


class LimelightHighlightCanvas(io.ComfyNode):
    """Drawing (JSON text) -> HIGHLIGHTS, MASK (highlights, height, width), IMAGE preview, width, height."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightHighlightCanvas",
            display_name="Highlight Canvas",
            category="limelight/highlight",
            description="Draw where each phrase of the prompt goes: strokes, boxes and polygons on a canvas of the "
            "image's shape. Press ? in the canvas for its shortcuts.",
            inputs=[
                drawn_by(
                    io.String.Input(
                        "highlights",
                        default=EMPTY,
                        socketless=True,
                        dynamic_prompts=False,  # the front end would take JSON's braces for {this|or that}
                        tooltip="The drawing. In an API prompt it is the highlights document as JSON text.",
                    ),
                    "LIMELIGHT_HIGHLIGHTS",
                ),
                *canvas.size_inputs(),
                canvas.background_input(),
                io.String.Input(
                    "prompt",
                    optional=True,
                    force_input=True,
                    tooltip="The prompt's text. The canvas offers its phrases; it changes nothing else. Not needed "
                    "where a Highlight Prompt with its own text follows.",
                ),
            ],
            outputs=[
                Highlights.Output(
                    display_name="highlights", tooltip="The highlights, for Highlight Prompt and the other nodes."
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="One mask for each highlight, in order: white is inside. One black mask if there is none.",
                ),
                io.Image.Output(
                    display_name="preview", tooltip="The highlights in their colours over the background or gray."
                ),
                *canvas.size_outputs(),
            ],
        )

    @classmethod
    def execute(
        cls,
        highlights: str,
        width: int = 512,
        height: int = 512,
        background: torch.Tensor | None = None,
        prompt: str | None = None,
    ) -> io.NodeOutput:
        width, height = canvas.side(width, "width"), canvas.side(height, "height")
        blank = isinstance(highlights, str) and not highlights.strip()
        document = Document() if blank else parse_text(highlights)
        masks = [_mask(highlight, height, width) for highlight in document.highlights]
        batch = np.stack(masks) if masks else np.zeros((1, height, width), np.float32)
        picture, shown = canvas.underneath(background, height, width)
        colour, alpha = overlay.draw_overlay(document, height, width)
        preview = picture * (1 - torch.from_numpy(alpha)) + torch.from_numpy(colour)
        return io.NodeOutput(document.to_dict(), torch.from_numpy(batch), preview, width, height, ui=shown)


NODES = [LimelightHighlightCanvas]


def _mask(highlight: Highlight, height: int, width: int) -> np.ndarray:
    shapes = [shape for instance in highlight.instances for shape in instance.shapes]
    return raster.coverage(shapes, height, width)
