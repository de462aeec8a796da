"""Nodes around local control: the lines that it is given, and how well it did."""

from __future__ import annotations

import json
import logging
from statistics import fmean

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.expansion.composite import resized
from ..guidance.expansion.place import alike
from ..guidance.local import edges, score
from ..guidance.regions import raster
from ..guidance.regions.skeleton import skeleton
from ..guidance.saliency.report import plain as json_safe
from . import tensors
from .local_control_load import CATEGORY
from .schema import advanced

CANNY, SOFT, DRAWING = "canny", "soft lines", "line drawing"
SD, SDXL = "SD 1.5", "SDXL"
PICTURE, HINT = "picture", "hint"


class LimelightEdgeHint(io.ComfyNode):
    """IMAGE -> white lines on black."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightEdgeHint",
            display_name="Edge Hint",
            category=CATEGORY,
            description="White lines on black for adapters and ControlNets: edges of a picture, or a drawing that is "
            "turned the right way round.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, or the drawing; a batch works as its images would."),
                io.Combo.Input(
                    "method",
                    options=[CANNY, SOFT, DRAWING],
                    default=CANNY,
                    tooltip="'canny': crisp lines of one pixel. 'soft lines': brighter where edges are stronger. 'line "
                    "drawing': the image is lines already; dark lines on a light ground are inverted.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[SD, SDXL],
                    default=SD,
                    tooltip=f"'SDXL': lines are found with a short side of {edges.SDXL_SIDE} pixels and enlarged, "
                    "which is how adapters of SDXL were trained; pixel-perfect lines lead them astray. 'SD 1.5': at "
                    "the image's own size.",
                ),
                advanced(
                    io.Int.Input(
                        "low",
                        optional=True,
                        default=edges.LOW,
                        min=0,
                        max=2000,
                        tooltip="Of canny: edges weaker than this are never lines.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "high",
                        optional=True,
                        default=edges.HIGH,
                        min=0,
                        max=2000,
                        tooltip="Of canny: edges stronger than this always are; those between, if they touch one.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(display_name="hint", tooltip="White lines on black, of the image's size."),
                io.String.Output(display_name="note", tooltip="What was inverted, and what looks wrong. Often empty."),
            ],
        )

    @classmethod
    def execute(cls, image, method=CANNY, preset=SD, low=edges.LOW, high=edges.HIGH) -> io.NodeOutput:
        for value, name, known in ((method, "method", (CANNY, SOFT, DRAWING)), (preset, "preset", (SD, SDXL))):
            if value not in known:
                raise LimelightError(f"{name}: found {checks.show(value)}; expected {', '.join(known)}.")
        low, high = (checks.whole(value, name, 0, 2000) for value, name in ((low, "low"), (high, "high")))
        if low > high:
            raise LimelightError(f"low: found {low}, above high, {high}. Set it to at most high.")
        made, notes = [], []
        for i, one in enumerate(_pictures(image, "image"), 1):
            height, width = one.shape[:2]
            if method == DRAWING and edges.light_ground(one):
                notes.append(f"image {i}: dark lines on a light ground; inverted")
            elif method != DRAWING and edges.is_drawing(one):
                notes.append(f"image {i}: looks like lines already, so each gets two edges; use '{DRAWING}'")
                logging.warning("Limelight: Edge Hint, %s.", notes[-1])
            one = edges.at_side(one, edges.SDXL_SIDE if preset == SDXL else 0)
            lines = {CANNY: lambda x: edges.canny(x, low, high), SOFT: edges.soft, DRAWING: edges.drawing}[method](one)
            made.append(np.repeat(edges.enlarged(lines.astype(np.float32), height, width)[..., None], 3, 2))
        return io.NodeOutput(tensors.batch(made), "\n".join(notes))


class LimelightLocalControlScore(io.ComfyNode):
    """Pictures, what they were to follow and where -> scores and an overlay."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightLocalControlScore",
            display_name="Local Control Score",
            category=CATEGORY,
            description="How well pictures follow lines inside a region, how far the rest was touched, and whether the "
            "region's border shows.",
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="What was generated with control."),
                io.Image.Input("reference", tooltip="What it was to follow: a picture, or the hint. Any size."),
                io.Mask.Input("mask", tooltip="The region that was controlled, white. Any size."),
                io.Combo.Input(
                    "reference_is",
                    options=[PICTURE, HINT],
                    default=PICTURE,
                    tooltip="'picture': its edges count. 'hint': it is lines already, white on black.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=score.TOLERANCE,
                    min=0.0,
                    max=64.0,
                    step=0.5,
                    tooltip="Pixels that a line may be off and still count as followed.",
                ),
                io.Image.Input(
                    "plain",
                    optional=True,
                    tooltip="The picture of the same seed and settings without control: what would be outside anyway.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="json", tooltip="All scores of each image, and their means."),
                io.String.Output(display_name="table", tooltip="The same as text."),
                io.Image.Output(
                    display_name="overlay",
                    tooltip="Lines inside: green as wanted, red not wanted, blue missing. Magenta: the region.",
                ),
                io.Float.Output(display_name="edge_f1", tooltip="F1 of the lines inside, averaged over the batch."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls, image, reference, mask, reference_is=PICTURE, tolerance=score.TOLERANCE, plain=None
    ) -> io.NodeOutput:
        tolerance = checks.number(tolerance, "tolerance", 0.0, 64.0)
        if reference_is not in (PICTURE, HINT):
            raise LimelightError(f"reference_is: found {checks.show(reference_is)}; expected {PICTURE} or {HINT}.")
        tensors.masks(mask)  # raises for one that is empty
        made, wanted, regions = _pictures(image, "image"), _pictures(reference, "reference"), tensors.saliency(mask)
        height, width = made.shape[1:3]
        for name, given in (("reference", wanted), ("mask", regions)):
            if not alike(given.shape[2:0:-1], (width, height)):
                raise LimelightError(
                    f"{name}: found {given.shape[2]} x {given.shape[1]} pixels, the image has {width} x {height}; "
                    f"expected the same aspect ratio. Connect the {name} that this image was made with."
                )
        if plain is not None:
            plain = tensors.as_many(_pictures(plain, "plain"), made, "plain")
            if plain.shape != made.shape:
                raise LimelightError(
                    f"plain: found {plain.shape[2]} x {plain.shape[1]} pixels, the image has {width} x {height}; "
                    "expected the same size. Generate it with the same settings, without control."
                )
        wanted, regions = tensors.as_many(wanted, made, "reference"), tensors.as_many(regions, made, "mask")
        results, shown = [], []
        for i, picture in enumerate(made):
            lines, soft = _lines(resized(wanted[i], width, height), reference_is == HINT)
            region = raster.resample(regions[i], height, width)
            other = None if plain is None else plain[i]
            results.append(score.scored(picture, lines, soft, region, other, tolerance))
            shown.append(score.overlay(picture, lines, region, tolerance))
        mean = {name: _mean([one[name] for one in results]) for name in results[0]}
        parts = [f"image {i}\n{score.table(one)}" for i, one in enumerate(results, 1)] if len(results) > 1 else []
        table = "\n\n".join([*(["mean\n" + score.table(mean)] if parts else [score.table(mean)]), *parts])
        found = json.dumps(json_safe({"images": results, "mean": mean}), indent=2)
        overlay = tensors.batch(shown)
        return io.NodeOutput(found, table, overlay, mean["edge_f1"], ui=ui.PreviewImage(overlay, cls=cls))


NODES = [LimelightEdgeHint, LimelightLocalControlScore]


def _pictures(image: torch.Tensor, name: str) -> np.ndarray:
    """IMAGE -> (B, H, W, 3) in [0, 1]."""
    pictures = tensors.rgb(image, name).cpu().numpy()
    if not np.isfinite(pictures).all():
        raise LimelightError(f"{name}: found values that are not numbers (NaN or infinite); expected 0 to 1.")
    return np.clip(pictures, 0, 1)


def _lines(reference: np.ndarray, is_hint: bool) -> tuple[np.ndarray, np.ndarray]:
    """Crisp and soft lines of a reference (H, W, 3). Lines of a hint are made one pixel thin."""
    if not is_hint:
        return edges.canny(reference), edges.soft(reference)
    lines = reference.mean(2)
    framed = np.pad(lines >= 0.5, 1)
    return skeleton(framed)[1:-1, 1:-1], lines


def _mean(values: list[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else float("nan")
