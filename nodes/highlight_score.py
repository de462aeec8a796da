"""Node that rates how well objects follow their highlights."""

from __future__ import annotations

import json
from statistics import fmean

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..guidance import checks
from ..guidance.attention import score, sheet
from ..guidance.attention.recording import Recording
from ..guidance.errors import LimelightError
from ..guidance.regions.document import parse
from . import tensors
from .schema import Attention, Highlights


class LimelightHighlightScore(io.ComfyNode):
    """HIGHLIGHTS + MASK or LIMELIGHT_ATTENTION -> scores as JSON, table and picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightHighlightScore",
            display_name="Highlight Score",
            category="limelight/highlight",
            description="Rates how well objects follow their highlights: overlap, coverage of the stroke, distance and "
            "turn. From masks of the objects (any segmenter), or from the final maps of Attention Record.",
            is_output_node=True,
            inputs=[
                Highlights.Input("highlights", tooltip="The highlights that the image was made with."),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="What counts as the object: mask values, or shares of the attention, from here up.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="One mask for each highlight, in their order; for several images all of the first image, "
                    "then all of the second. An empty mask is an object that is missing.",
                ),
                Attention.Input(
                    "record", optional=True, tooltip="From Attention Record, in place of masks. Needs the image, too."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The image, for the picture. With a record it also makes this node run after the sampler.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="json", tooltip="All scores as JSON, by image and highlight."),
                io.String.Output(display_name="table", tooltip="The same as text with a line for each highlight."),
                io.Image.Output(
                    display_name="image", tooltip="Highlights filled in their colours, objects outlined, with the IoU."
                ),
                io.Float.Output(
                    display_name="mean_iou",
                    tooltip="Intersection over union, averaged over highlights and images; 0 for missing objects.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, highlights, threshold=0.5, masks=None, record=None, image=None) -> io.NodeOutput:
        wanted = parse(highlights).highlights
        threshold = checks.number(threshold, "threshold", 0.01, 1)
        if not wanted:
            raise LimelightError("highlights: found none; expected at least one. Connect the highlights to be rated.")
        if (masks is None) == (record is None):
            found = "neither" if masks is None else "both"
            raise LimelightError(f"masks, record: found {found}; expected one of them. Connect what is to be rated.")
        image = None if image is None else tensors.rgb(image)
        if record is not None:
            objects = _recorded_objects(record, wanted, image)
        else:
            objects = _masked_objects(masks, len(wanted), image)
        objects = [[(mask >= threshold).astype(np.float32) for mask in one] for one in objects]
        scores = [[score.score(h, mask) for h, mask in zip(wanted, one, strict=True)] for one in objects]
        pictures = [None] * len(objects) if image is None else list(image.cpu().numpy())
        each = zip(pictures, objects, scores, strict=True)
        drawn = tensors.batch([sheet.score_picture(shown, wanted, masked, rated) for shown, masked, rated in each])
        every = [one for scores_of_image in scores for one in scores_of_image]
        summary = score.summary(every)
        result = {"images": [{"highlights": [s.to_dict() for s in one], **score.summary(one)} for one in scores]}
        table = score.table(scores[0]) if len(scores) == 1 else _tables(scores)
        shown = {"images": ui.PreviewImage(drawn, cls=cls).values, "text": (table,)}
        text = json.dumps({**result, **summary}, indent=2, ensure_ascii=False)
        return io.NodeOutput(text, table, drawn, fmean(s.iou for s in every), ui=shown)


def _recorded_objects(recording: Recording, wanted: tuple, image: torch.Tensor | None) -> list[list[np.ndarray]]:
    """The final map of each highlight, image by image."""
    if image is None:
        raise LimelightError(
            "image: found nothing; expected the decoded image of the recorded model's sampler, so that this node runs "
            "after it. Connect it."
        )
    recording.check(*image.shape[:3])
    maps = recording.final_maps(*image.shape[1:3]).unbind(1)
    chosen = []
    for highlight in wanted:
        same = [
            maps[i]
            for i, recorded in enumerate(recording.highlights)
            if (recorded.highlight.phrase, recorded.highlight.instances) == (highlight.phrase, highlight.instances)
        ]
        if not same:
            names = ", ".join(checks.show(recorded.highlight.phrase) for recorded in recording.highlights)
            raise LimelightError(
                f"record: the highlight {checks.show(highlight.phrase)} was not in force in this run; it had {names}. "
                "Connect the highlights that the run was made with; those of strength 0 leave no record."
            )
        chosen.append(same[0].numpy())
    return [list(one) for one in zip(*chosen, strict=True)]


def _masked_objects(masks: torch.Tensor, count: int, image: torch.Tensor | None) -> list[list[np.ndarray]]:
    found = tensors.masks(masks, "masks", empty=True)
    images = len(found) // count if image is None else len(image)
    if not images or images * count != len(found):
        of = "" if image is None else f" and {len(image)} images"
        raise LimelightError(
            f"masks: found {len(found)} for {count} highlights{of}; expected one for each highlight of each image. "
            "Join masks of one object into one, and put an empty mask where an object is missing."
        )
    return [found[i * count : (i + 1) * count] for i in range(images)]


def _tables(scores: list[list[score.Score]]) -> str:
    return "\n\n".join(f"image {number}\n{score.table(one)}" for number, one in enumerate(scores, 1))


NODES = [LimelightHighlightScore]
