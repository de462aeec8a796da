"""Node that lays a cut-out product on a canvas to be filled with a new background."""

from __future__ import annotations

import logging

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.expansion import composite, place
from . import tensors
from .schema import Placement, advanced

CATEGORY = "limelight/salient object"
AS_GIVEN = "width x height"
RATIOS = [AS_GIVEN, "1:1", "5:4", "4:3", "3:2", "16:9", "2:1", "4:5", "3:4", "2:3", "9:16", "1:2"]


class LimelightPlaceSubject(io.ComfyNode):
    """Cut-outs -> the same on grey canvases, and where they lie."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightPlaceSubject",
            display_name="Place Subject",
            category=CATEGORY,
            description="Lays a cut-out product on a grey canvas: where it stands, how large, in which format. "
            "Composite Subject later puts the product's own pixels back in the same place.",
            inputs=[
                io.Image.Input(
                    "image", tooltip="The product, with transparency or with a mask. A batch gives a batch."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is the product; soft edges are kept. Put Invert Mask behind the mask of Load Image. "
                    "Without a mask the image's transparency counts.",
                ),
                io.Int.Input("width", default=1024, min=64, max=8192, step=8, tooltip="Of the canvas, in pixels."),
                io.Int.Input("height", default=1024, min=64, max=8192, step=8, tooltip="Of the canvas, in pixels."),
                io.Combo.Input(
                    "ratio",
                    options=RATIOS,
                    default=AS_GIVEN,
                    tooltip="The canvas' format. A ratio gives about as many pixels as width x height, in steps of 8.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(place.FITS),
                    default=place.INSIDE,
                    tooltip="What the size is measured by: all of the product inside the margins, its width or height "
                    "alone, or its own pixels, which are then not resampled at 100 %.",
                ),
                io.Float.Input(
                    "size", default=70.0, min=1.0, max=400.0, step=0.5, tooltip="In percent of what fit says."
                ),
                io.Combo.Input(
                    "anchor",
                    options=list(place.ANCHORS),
                    default=place.FLOOR,
                    tooltip="Stands at the lower margin, floats in the middle, or hangs from the upper margin.",
                ),
                io.Float.Input(
                    "margin",
                    default=8.0,
                    min=0.0,
                    max=45.0,
                    step=0.5,
                    tooltip="Kept free on all sides, in percent of the canvas' short side.",
                ),
                io.Float.Input(
                    "rotation", default=0.0, min=-180.0, max=180.0, step=0.5, tooltip="In degrees, clockwise."
                ),
                advanced(
                    io.Float.Input(
                        "shift_x",
                        default=0.0,
                        min=-100.0,
                        max=100.0,
                        step=0.5,
                        tooltip="To the right of the anchor's place, in percent of the canvas' width.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "shift_y",
                        default=0.0,
                        min=-100.0,
                        max=100.0,
                        step=0.5,
                        tooltip="Down from the anchor's place, in percent of the canvas' height.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The product on its canvas, gray around it."),
                io.Mask.Output(display_name="mask", tooltip="White is the product on its canvas: what is to be kept."),
                Placement.Output(
                    display_name="placement", tooltip="Where the product's own pixels belong, for Composite Subject."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image,
        mask=None,
        width=1024,
        height=1024,
        ratio=AS_GIVEN,
        fit=place.INSIDE,
        size=70.0,
        anchor=place.FLOOR,
        margin=8.0,
        rotation=0.0,
        shift_x=0.0,
        shift_y=0.0,
    ) -> io.NodeOutput:
        colours, opacities = tensors.cutouts(image, mask)
        for name, value, known in (
            ("ratio", ratio, RATIOS),
            ("fit", fit, place.FITS),
            ("anchor", anchor, place.ANCHORS),
        ):
            if value not in known:
                raise LimelightError(f"{name}: found {checks.show(value)}; expected one of {', '.join(known)}.")
        shape = None
        if ratio != AS_GIVEN:
            across, down = ratio.split(":")
            shape = int(across), int(down)
        canvas = place.sides(
            checks.whole(width, "width", 64, 8192),
            checks.whole(height, "height", 64, 8192),
            shape,
        )
        laid_out = {
            "fit": fit,
            "anchor": anchor,
            "size": checks.number(size, "size", 1, 400),
            "rotation": checks.number(rotation, "rotation", -180, 180),
            "margin": checks.number(margin, "margin", 0, 45),
            "shift": (checks.number(shift_x, "shift_x", -100, 100), checks.number(shift_y, "shift_y", -100, 100)),
        }
        pictures, masks, placements = [], [], []
        for number, (colour, alpha) in enumerate(zip(colours, opacities, strict=True), 1):
            one = place.place(alpha, canvas, **laid_out)
            share = place.visible_share(alpha, one)
            if share < 0.999:
                logging.warning("Subject %d: %.1f %% of it lie outside the canvas.", number, 100 * (1 - share))
            laid, opacity = place.laid(composite.foreground(colour, alpha), alpha, one)
            pictures.append(place.on_grey(laid, opacity))
            masks.append(opacity)
            placements.append(one.as_dict())
        return io.NodeOutput(tensors.batch(pictures), torch.from_numpy(np.stack(masks)), placements)


NODES = [LimelightPlaceSubject]
