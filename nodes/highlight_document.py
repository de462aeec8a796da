"""Nodes that make and read the region document (HIGHLIGHTS)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.regions import document, maskpng
from . import tensors
from .schema import Highlights, advanced

CATEGORY = "limelight/highlight"
SEPARATE = "one object of the phrase"
TOGETHER = "part of one object"

EXAMPLE = """{
  "version": 1,
  "highlights": [
    {
      "phrase": "red circle",
      "instances": [
        {"shapes": [{"type": "stroke", "points": [[0.2, 0.3], [0.4, 0.25]], "width": 0.08}]}
      ]
    }
  ]
}"""


class LimelightHighlightFromMask(io.ComfyNode):
    """MASK (batch) + phrase -> HIGHLIGHTS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightHighlightFromMask",
            display_name="Highlight from Mask",
            category=CATEGORY,
            description="Says that a phrase of the prompt goes where a mask is white. Chain several for more phrases.",
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="Where the phrase goes: white is inside, gray counts in part. It is stretched over the "
                    "whole image, whatever its size. A batch holds several objects, or several parts of one.",
                ),
                *_phrase_inputs(),
                io.Combo.Input(
                    "each_mask_is",
                    display_name="each mask is",
                    options=[SEPARATE, TOGETHER],
                    default=SEPARATE,
                    tooltip=f"For a batch of masks. '{SEPARATE}': three masks for 'dolphins' are three dolphins. "
                    f"'{TOGETHER}': the masks are joined into one object.",
                ),
                *_expert_inputs(),
                _chained_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls,
        mask: torch.Tensor,
        phrase: str,
        strength: float = 1.0,
        each_mask_is: str = SEPARATE,
        occurrence: int = 1,
        color: str = "",
        highlights: dict | None = None,
    ) -> io.NodeOutput:
        if each_mask_is not in (SEPARATE, TOGETHER):
            raise LimelightError(
                f"each mask is: found {checks.show(each_mask_is)}; expected '{SEPARATE}' or '{TOGETHER}'."
            )
        masks = tensors.masks(mask)
        if each_mask_is == TOGETHER:
            masks = [np.maximum.reduce(masks)]
        instances = [{"shapes": [{"type": "mask", "png": maskpng.encode(one)}]} for one in masks]
        return _chain(highlights, phrase, strength, occurrence, color, instances)


class LimelightHighlightFromBox(io.ComfyNode):
    """Box in fractions + phrase -> HIGHLIGHTS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        fraction = {"step": 0.01, "round": 0.001}
        return io.Schema(
            node_id="LimelightHighlightFromBox",
            display_name="Highlight from Box",
            category=CATEGORY,
            description="Says that a phrase of the prompt goes into a box. Chain several for several phrases.",
            inputs=[
                *_phrase_inputs(),
                io.Float.Input(
                    "x",
                    default=0.25,
                    min=0.0,
                    max=0.99,
                    tooltip="Left edge, as a fraction of the image's width: 0 is the left border, 0.5 the middle.",
                    **fraction,
                ),
                io.Float.Input(
                    "y",
                    default=0.25,
                    min=0.0,
                    max=0.99,
                    tooltip="Top edge, as a fraction of the image's height: 0 is the top border, 0.5 the middle.",
                    **fraction,
                ),
                io.Float.Input(
                    "width",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    tooltip="Width of the box, as a fraction of the image's width. What reaches beyond the right "
                    "border is cut off.",
                    **fraction,
                ),
                io.Float.Input(
                    "height",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    tooltip="Height of the box, as a fraction of the image's height. What reaches below the bottom "
                    "border is cut off.",
                    **fraction,
                ),
                *_expert_inputs(),
                _chained_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls,
        phrase: str,
        x: float,
        y: float,
        width: float,
        height: float,
        strength: float = 1.0,
        occurrence: int = 1,
        color: str = "",
        highlights: dict | None = None,
    ) -> io.NodeOutput:
        fractions = "Fractions of the image are meant, not pixels."
        x, y = checks.number(x, "x", 0, 0.99, fractions), checks.number(y, "y", 0, 0.99, fractions)
        width = checks.number(width, "width", 0.01, 1, fractions)
        height = checks.number(height, "height", 0.01, 1, fractions)
        instances = [{"shapes": [{"type": "box", "box": [x, y, min(x + width, 1.0), min(y + height, 1.0)]}]}]
        return _chain(highlights, phrase, strength, occurrence, color, instances)


class LimelightHighlightFromJSON(io.ComfyNode):
    """JSON text -> HIGHLIGHTS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightHighlightFromJSON",
            display_name="Highlight from JSON",
            category=CATEGORY,
            description="Reads highlights that a script or another program wrote: strokes, boxes, polygons and masks.",
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default=EXAMPLE,
                    dynamic_prompts=False,  # the front end would take JSON's braces for {this|or that}
                    tooltip="The highlights document as JSON. Points are fractions of the image, [0, 0] at the top "
                    "left and [1, 1] at the bottom right; a stroke's width is a fraction of the image's short side.",
                ),
                _chained_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, text: str, highlights: dict | None = None) -> io.NodeOutput:
        read = document.parse_text(text)
        if highlights is not None:
            read = document.merge(document.parse(highlights), read)
        return io.NodeOutput(read.to_dict())


NODES = [LimelightHighlightFromMask, LimelightHighlightFromBox, LimelightHighlightFromJSON]


def _phrase_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "phrase",
            default="",
            placeholder="words of the prompt",
            dynamic_prompts=False,
            tooltip="The words that the region is for, written as in the prompt, such as 'red circle'.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=document.MAX_STRENGTH,
            step=0.05,
            tooltip="How hard this highlight pulls, compared with the others. 0 turns it off.",
        ),
    ]


def _expert_inputs() -> list[io.Input]:
    return [
        advanced(
            io.Int.Input(
                "occurrence",
                optional=True,
                default=1,
                min=1,
                max=document.MAX_OCCURRENCE,
                tooltip="Which mention is meant if the prompt says the phrase several times: 1 is the first.",
            )
        ),
        advanced(
            io.String.Input(
                "color",
                optional=True,
                default="",
                placeholder="automatic, or #e6194b",
                dynamic_prompts=False,
                tooltip="Colour in previews, as #rrggbb. Empty: chosen automatically. It does not change the image.",
            )
        ),
    ]


def _chained_input() -> io.Input:
    return Highlights.Input(
        "highlights", optional=True, tooltip="Highlights of other nodes, to which this one is added. May be left empty."
    )


def _output() -> io.Output:
    return Highlights.Output(
        display_name="highlights",
        tooltip="All highlights so far, for Highlight Prompt, another highlight or a preview.",
    )


def _chain(
    highlights: Any, phrase: Any, strength: Any, occurrence: Any, color: Any, instances: list[dict]
) -> io.NodeOutput:
    color = color.strip() if isinstance(color, str) else color
    plain = {"phrase": phrase, "strength": strength, "occurrence": occurrence, "instances": instances}
    highlight = document.parse_highlight({**plain, "color": color or None})
    return io.NodeOutput(document.add(highlights, highlight).to_dict())
