"""Node that draws the region document (HIGHLIGHTS) with the mouse, a pen or a finger. Its widget lives in web/."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.regions import overlay, raster
from ..guidance.regions.document import Document, Highlight, parse_text
from . import tensors
from .schema import Highlights, drawn_by

EMPTY = Document().to_json()
GRAY = 0.5  # of the preview where there is no background


class LimelightHighlightCanvas(io.ComfyNode):
    """Drawing (JSON text) -> HIGHLIGHTS, MASK (highlights, height, width), IMAGE preview, width, height."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        size = {"default": 512, "min": 64, "max": 4096, "step": 8}
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
                io.Int.Input("width", tooltip="Width of the image in pixels, a multiple of 8.", **size),
                io.Int.Input("height", tooltip="Height of the image in pixels, a multiple of 8.", **size),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="A picture to draw over, stretched to the canvas. It shows in the canvas and in the "
                    "preview and changes nothing else.",
                ),
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
                io.Int.Output(display_name="width", tooltip="Width in pixels, for the empty latent."),
                io.Int.Output(display_name="height", tooltip="Height in pixels, for the empty latent."),
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
        width, height = _side(width, "width"), _side(height, "height")
        blank = isinstance(highlights, str) and not highlights.strip()
        document = Document() if blank else parse_text(highlights)
        masks = [_mask(highlight, height, width) for highlight in document.highlights]
        batch = np.stack(masks) if masks else np.zeros((1, height, width), np.float32)
        shown, picture = None, torch.full((1, height, width, 3), GRAY)
        if background is not None:
            picture = _fitted(background, height, width)
            # The canvas shows what it lies over even where the node before it has no preview of its own.
            shown = {"limelight_background": ui.PreviewImage(picture, cls=None).as_dict()["images"]}
        colour, alpha = overlay.draw_overlay(document, height, width)
        preview = picture * (1 - torch.from_numpy(alpha)) + torch.from_numpy(colour)
        return io.NodeOutput(document.to_dict(), torch.from_numpy(batch), preview, width, height, ui=shown)


NODES = [LimelightHighlightCanvas]


def _side(value: int, name: str) -> int:
    value = checks.whole(value, name, 64, 4096)
    if value % 8:
        raise LimelightError(f"{name}: found {value}; expected a multiple of 8. {value // 8 * 8} is the next below.")
    return value


def _mask(highlight: Highlight, height: int, width: int) -> np.ndarray:
    shapes = [shape for instance in highlight.instances for shape in instance.shapes]
    return raster.coverage(shapes, height, width)


def _fitted(background: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The first image as (1, height, width, 3) float32 on the CPU, stretched."""
    image = tensors.rgb(background)[:1].cpu().movedim(-1, 1)
    resized = torch.nn.functional.interpolate(image, (height, width), mode="bilinear", antialias=True)
    return resized.movedim(1, -1).clamp(0, 1)
