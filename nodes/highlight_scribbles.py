"""Node that reads scribble files: ScribbleSup XML and coloured scribble images."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.regions import scribble_image, scribbles
from . import tensors
from .schema import Highlights, advanced

LINES = "lines through the objects"
AREAS = "the objects themselves"
MAX_SIDE = 8192


class LimelightHighlightFromScribbles(io.ComfyNode):
    """ScribbleSup XML or IMAGE of coloured scribbles -> HIGHLIGHTS, prompt, size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 512, "min": 0, "max": MAX_SIDE, "step": 8}
        return io.Schema(
            node_id="LimelightHighlightFromScribbles",
            display_name="Highlight from Scribbles",
            category="limelight/highlight",
            description="Reads drawn scribbles, from a PASCAL-Scribble (ScribbleSup) XML file or from an image with "
            "one colour for each phrase, and writes the prompt that names them.",
            inputs=[
                io.String.Input(
                    "xml",
                    multiline=True,
                    default="",
                    placeholder="<annotation> ... </annotation>, or connect an image",
                    dynamic_prompts=False,
                    tooltip="The text of a ScribbleSup XML file. Leave it empty if an image is connected.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Scribbles in plain colours, one colour for each phrase; each connected part is one "
                    "object. Leave it out if there is XML.",
                ),
                io.String.Input(
                    "colors",
                    multiline=True,
                    default="",
                    placeholder="#e6194b = red circle\n#4363d8 = blue bar",
                    dynamic_prompts=False,
                    tooltip="What the image's colours mean: a line for each, such as '#e6194b = red circle'. Other "
                    "colours are ignored. Empty: PASCAL VOC's colours and class names. Not used with XML.",
                ),
                io.Combo.Input(
                    "drawn",
                    options=[LINES, AREAS],
                    default=LINES,
                    tooltip=f"What the image's coloured areas are. '{LINES}': scribbles; objects may grow around them. "
                    f"'{AREAS}': filled masks. Not used with XML.",
                ),
                io.String.Input(
                    "template",
                    default=scribbles.TEMPLATE,
                    dynamic_prompts=False,
                    tooltip="The prompt. The word objects in braces, as in the default, is where 'a dog, a cat and "
                    "people' goes.",
                ),
                io.Int.Input(
                    "width",
                    tooltip="Width of the image to generate. Scribbles of another aspect ratio are put into its "
                    "middle, with bars beside them. 0: whatever keeps their aspect ratio.",
                    **side,
                ),
                io.Int.Input(
                    "height",
                    tooltip="Height of the image to generate. 0: whatever keeps the scribbles' aspect ratio; with both "
                    "0, the size that they were drawn at.",
                    **side,
                ),
                advanced(
                    io.Float.Input(
                        "line_width",
                        optional=True,
                        default=scribbles.LINE_WIDTH,
                        min=1.0,
                        max=1000.0,
                        step=1.0,
                        tooltip="Width of the XML's lines, in pixels of the picture they were drawn on.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "tolerance",
                        optional=True,
                        default=scribble_image.TOLERANCE,
                        min=0,
                        max=255,
                        tooltip="How far a channel of a pixel (0 to 255) may be from that of its colour. Raise it for "
                        "JPEG images.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "plurals",
                        optional=True,
                        default=True,
                        tooltip="On: two scribbles of 'dog' are the phrase 'dogs'. Off: the phrase is 'dog' however "
                        "many there are.",
                    )
                ),
            ],
            outputs=[
                Highlights.Output(
                    display_name="highlights", tooltip="The scribbles, for Highlight Prompt or a preview."
                ),
                io.String.Output(display_name="prompt", tooltip="The prompt that names every scribble."),
                io.Int.Output(display_name="width", tooltip="Width of the image to generate, for the empty latent."),
                io.Int.Output(display_name="height", tooltip="Height of the image to generate, for the empty latent."),
            ],
        )

    @classmethod
    def execute(
        cls,
        xml: str,
        colors: str = "",
        drawn: str = LINES,
        template: str = scribbles.TEMPLATE,
        width: int = 512,
        height: int = 512,
        line_width: float = scribbles.LINE_WIDTH,
        tolerance: int = scribble_image.TOLERANCE,
        plurals: bool = True,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        given = isinstance(xml, str) and bool(xml.strip())
        if given == (image is not None):
            found = "both" if given else "neither"
            raise LimelightError(f"xml, image: found {found}; expected one of them. Clear the text or the connection.")
        if drawn not in (LINES, AREAS):
            raise LimelightError(f"drawn: found {checks.show(drawn)}; expected '{LINES}' or '{AREAS}'.")
        width, height = checks.whole(width, "width", 0, MAX_SIDE), checks.whole(height, "height", 0, MAX_SIDE)
        if given:
            read = scribbles.read_xml(xml, line_width)
        else:
            pixels = (tensors.rgb(image).clamp(0, 1) * 255).round().byte().cpu().numpy()
            if len(pixels) != 1:
                raise LimelightError(f"image: found a batch of {len(pixels)}; expected one image.")
            names = scribble_image.parse_colors(colors)
            read = scribble_image.read_image(pixels[0], names, tolerance, drawn == AREAS)
        size = scribbles.target_size(read.size, width, height)
        document, prompt = scribbles.compose(read, size, template, plurals=plurals)
        return io.NodeOutput(document.to_dict(), prompt, *size)


NODES = [LimelightHighlightFromScribbles]
