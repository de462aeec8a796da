"""Nodes that make saliency maps and change them. A map is a MASK: 1 draws the viewers' eyes, 0 does not."""

from __future__ import annotations

import logging

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.saliency import fixations as saliency_fixations
from ..guidance.saliency import maps as saliency_maps
from . import tensors
from .schema import advanced

CATEGORY = "limelight/saliency"
KEEP, PEAK, STRETCH = "keep the amplitude", "peak at 1", "stretch to 0..1"
NORMALISE = [KEEP, PEAK, STRETCH]
PIXELS, SHARES = "pixels", "shares of the picture (0..1)"


def normalised(one: np.ndarray, how: str) -> np.ndarray:
    """(H, W) -> the same in the chosen form."""
    if how not in NORMALISE:
        raise LimelightError(f"normalize: found {checks.show(how)}; expected one of {', '.join(NORMALISE)}.")
    return {KEEP: lambda m: m, PEAK: saliency_maps.peak, STRETCH: saliency_maps.stretched}[how](one)


def warn(maps: np.ndarray) -> None:
    """Tells the log what is odd about maps (B, H, W)."""
    for i, one in enumerate(maps, 1):
        for warning in saliency_maps.warnings(one):
            logging.warning("Saliency map %d of %d: %s.", i, len(maps), warning)


def output(maps: np.ndarray) -> io.NodeOutput:
    """MASK of the maps; what is odd about them goes to the log."""
    warn(maps)
    return io.NodeOutput(torch.from_numpy(np.ascontiguousarray(maps, np.float32)).clamp_(0, 1))


def saliency_output(tooltip: str) -> io.Output:
    """The one output of every node here."""
    return io.Mask.Output(display_name="saliency", tooltip=tooltip)


class LimelightSaliencyFromMask(io.ComfyNode):
    """MASK -> saliency map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSaliencyFromMask",
            display_name="Saliency from Mask",
            category=CATEGORY,
            description="Makes a saliency map of a mask: viewers should look where it is white. The edge is made soft, "
            "as attention is.",
            inputs=[
                io.Mask.Input("mask", tooltip="White is where viewers should look. Each mask of a batch gives a map."),
                io.Float.Input(
                    "softness",
                    default=5.0,
                    min=0.0,
                    max=50.0,
                    step=0.1,
                    tooltip="How soft the edge is: the blur's standard deviation in percent of the short side.",
                ),
                io.Float.Input(
                    "amplitude",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The map's brightest value. GazeFusion's own example has 0.7; 0 gives a black map.",
                ),
                io.Mask.Input(
                    "suppress",
                    optional=True,
                    tooltip="White is where viewers should not look: the map is dark there. Any size.",
                ),
            ],
            outputs=[saliency_output("The map, of the mask's size.")],
        )

    @classmethod
    def execute(cls, mask, softness=5.0, amplitude=1.0, suppress=None) -> io.NodeOutput:
        maps = tensors.saliency(mask, "mask")
        amplitude = checks.number(amplitude, "amplitude", 0, 1)
        sigma = checks.number(softness, "softness", 0, 50) / 100 * min(maps.shape[1:])
        if not maps.max((1, 2)).all():
            raise LimelightError("mask: found an empty one (nothing is white); expected where viewers should look.")
        soft = [saliency_maps.peak(saliency_maps.blur(one, sigma), amplitude) for one in maps]
        return output(_suppressed(np.stack(soft), suppress, 1.0, sigma))


class LimelightSaliencyFromFixations(io.ComfyNode):
    """CSV of gaze points -> saliency map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSaliencyFromFixations",
            display_name="Saliency from Fixations",
            category=CATEGORY,
            description="Makes a saliency map of an eye tracker's points: each is spread over one degree of visual "
            "angle, about what the eye sees sharply at once.",
            inputs=[
                io.String.Input(
                    "fixations",
                    multiline=True,
                    default="x, y, duration\n640, 360, 240\n",
                    dynamic_prompts=False,
                    tooltip="A table as CSV: x, y, and a duration if there is one. The first line may name the "
                    "columns. Lines without two numbers are left out.",
                ),
                io.Combo.Input(
                    "unit", options=[PIXELS, SHARES], default=PIXELS, tooltip="What x and y are measured in."
                ),
                io.Int.Input(
                    "width", default=1280, min=16, max=8192, tooltip="Width of the picture, and of the map, in pixels."
                ),
                io.Int.Input(
                    "height", default=720, min=16, max=8192, tooltip="Height of the picture, and of the map, in pixels."
                ),
                io.Float.Input(
                    "pixels_per_degree",
                    default=35.0,
                    min=1.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="How many pixels of the picture make one degree of visual angle: from Viewing Conditions. "
                    "35 is that of common benchmarks.",
                ),
                advanced(
                    io.Float.Input(
                        "degrees",
                        default=1.0,
                        min=0.1,
                        max=10.0,
                        step=0.1,
                        tooltip="Standard deviation of the spot around each point, in degrees of visual angle.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "by_duration",
                        default=True,
                        tooltip="On: points count by how long the look lasted. Off: all count the same.",
                    )
                ),
            ],
            outputs=[saliency_output("The density of the points; its peak is 1.")],
        )

    @classmethod
    def execute(
        cls, fixations, unit=PIXELS, width=1280, height=720, pixels_per_degree=35.0, degrees=1.0, by_duration=True
    ) -> io.NodeOutput:
        size = [checks.whole(side, name, 16, 8192) for side, name in ((width, "width"), (height, "height"))]
        sigma = checks.number(pixels_per_degree, "pixels_per_degree", 1, 1000) * checks.number(
            degrees, "degrees", 0.1, 10
        )
        points = saliency_fixations.parse(fixations)
        if unit == PIXELS:
            points[:, :2] /= size
        if not by_duration:
            points[:, 2] = 1
        return output(saliency_fixations.density(points, size[1], size[0], sigma)[None])


class LimelightSaliencyAdjust(io.ComfyNode):
    """Saliency map -> saliency map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSaliencyAdjust",
            display_name="Adjust Saliency",
            category=CATEGORY,
            description="Changes a saliency map: joins it with another, suppresses a region, adds that people look at "
            "the middle, blurs, normalises. In this order.",
            inputs=[
                io.Mask.Input("saliency", tooltip="The map, or a batch of maps."),
                io.Combo.Input(
                    "blend",
                    options=list(saliency_maps.BLEND),
                    default="larger",
                    tooltip="How the other map is joined, pixel by pixel: the larger or smaller of the two values, "
                    "their mean, sum (1 at most) or product.",
                ),
                io.Float.Input(
                    "suppression",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the map the white parts of 'suppress' take away. 1 takes all.",
                ),
                io.Float.Input(
                    "centre_bias",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the map is drawn to the middle, where people look whatever there is to see. 1 "
                    "multiplies it by the centre bias measured in eye tracking.",
                ),
                io.Float.Input(
                    "blur",
                    default=0.0,
                    min=0.0,
                    max=50.0,
                    step=0.1,
                    tooltip="Standard deviation of the blur in percent of the short side. 2 is GazeFusion's.",
                ),
                io.Combo.Input(
                    "normalize",
                    options=NORMALISE,
                    default=KEEP,
                    tooltip=f"'{KEEP}': values stay. '{PEAK}': the brightest becomes 1. '{STRETCH}': the darkest "
                    "becomes 0, too, as in every map that GazeFusion was trained on.",
                ),
                io.Mask.Input("other", optional=True, tooltip="Another map, which is joined. Any size."),
                io.Mask.Input("suppress", optional=True, tooltip="White is where viewers should not look. Any size."),
            ],
            outputs=[saliency_output("The changed map, of the first map's size.")],
        )

    @classmethod
    def execute(
        cls,
        saliency,
        blend="larger",
        suppression=1.0,
        centre_bias=0.0,
        blur=0.0,
        normalize=KEEP,
        other=None,
        suppress=None,
    ) -> io.NodeOutput:
        maps = tensors.saliency(saliency)
        if blend not in saliency_maps.BLEND:
            raise LimelightError(
                f"blend: found {checks.show(blend)}; expected one of {', '.join(saliency_maps.BLEND)}."
            )
        height, width = maps.shape[1:]
        if other is not None:
            added = saliency_maps.resize(tensors.saliency(other, "other"), height, width)
            maps = saliency_maps.BLEND[blend](*tensors.pair(maps, added, "saliency, other"))
        maps = _suppressed(maps, suppress, checks.number(suppression, "suppression", 0, 1), 0.0)
        bias = checks.number(centre_bias, "centre_bias", 0, 1)
        if bias:
            maps = maps * (1 - bias + bias * saliency_maps.centre_bias(height, width))
        maps = saliency_maps.blur(maps, checks.number(blur, "blur", 0, 50) / 100 * min(height, width))
        return output(np.stack([normalised(one, normalize) for one in maps]))


NODES = [LimelightSaliencyFromMask, LimelightSaliencyFromFixations, LimelightSaliencyAdjust]


def _suppressed(maps: np.ndarray, suppress: torch.Tensor | None, share: float, sigma: float) -> np.ndarray:
    if suppress is None:
        return maps
    spared = saliency_maps.resize(tensors.saliency(suppress, "suppress"), *maps.shape[1:])
    maps, spared = tensors.pair(maps, saliency_maps.blur(spared, sigma), "saliency, suppress")
    return maps * (1 - share * np.clip(spared, 0, 1))
