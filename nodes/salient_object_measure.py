"""Nodes that measure whether a generated background grew the subject, keep the best and find what to repair."""

from __future__ import annotations

import json
from statistics import fmean

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.expansion import measure
from . import tensors
from .salient_object_place import CATEGORY

BEFORE = "White is the subject on its canvas, before generation: the mask of Place Subject."
AFTER = (
    "White is the subject as found in each generated picture, by any node that makes a mask of one. Each gets its own."
)
GROWTH, WHOLE, PAPER, NOTEBOOK = "growth", "growth and loss", "relative (paper)", "signed (notebook)"
JUDGES = {
    GROWTH: lambda row: row["growth"],
    WHOLE: lambda row: row["growth"] + row["lost"],
    PAPER: lambda row: row["relative"],
    NOTEBOOK: lambda row: abs(row["signed"]),
}
COLUMNS = ("growth", "detached", "lost", "expansion", "relative", "shrink", "signed", "reach", "identity")


def band_input() -> io.Float.Input:
    """The width of the edge that does not count."""
    return io.Float.Input(
        "band",
        default=0.6,
        min=0.0,
        max=10.0,
        step=0.1,
        tooltip="How far the edge of a found mask may be off without counting, in percent of the short side.",
    )


def pixels_of(percent: float, masks: np.ndarray, name: str, most: float) -> float:
    """Percent of the short side of (B, H, W) -> pixels."""
    return checks.number(percent, name, 0, most) / 100 * min(masks.shape[1:])


class LimelightObjectExpansion(io.ComfyNode):
    """Masks before and after -> how much the subject grew."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightObjectExpansion",
            display_name="Object Expansion",
            category=CATEGORY,
            description="Measures whether a new background has grown the product: extra parts that hang on it, new "
            "things beside it, lost pieces, and how well it kept its pixels.",
            is_output_node=True,
            inputs=[
                io.Mask.Input("before", tooltip=BEFORE),
                io.Mask.Input("after", tooltip=AFTER),
                band_input(),
                io.Float.Input(
                    "limit",
                    default=2.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Most growth, and most loss, that passes, in percent of the subject's area.",
                ),
                io.Mask.Input(
                    "floor",
                    optional=True,
                    tooltip="What the same node finds in the subject on grey, before generation. The growth that it "
                    "sees there is its own error and is taken off.",
                ),
                io.Image.Input("image", optional=True, tooltip="The generated pictures: shown under the heat map."),
                io.Image.Input(
                    "original",
                    optional=True,
                    tooltip="The subject on its canvas. With image, too, the difference inside it is measured.",
                ),
            ],
            outputs=[
                io.Boolean.Output(display_name="passed", tooltip="Whether every picture keeps within the limit."),
                io.Float.Output(
                    display_name="growth", tooltip="Attached growth in percent of the subject, averaged over the batch."
                ),
                io.String.Output(display_name="json", tooltip="Every measure of each picture, and their means."),
                io.String.Output(display_name="table", tooltip="The same as text, in percent and pixels."),
                io.Image.Output(
                    display_name="heat_map",
                    tooltip="Attached growth red, new things blue, loss yellow, the subject outlined in white.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, before, after, band=0.6, limit=2.0, floor=None, image=None, original=None) -> io.NodeOutput:
        given, found = tensors.subjects(before, after)
        limit = checks.number(limit, "limit", 0, 1000) / 100
        edge = pixels_of(band, given, "band", 10)
        floors = _floors(floor, given)
        pictures, originals = _pictures(image, given, "image"), _pictures(original, given, "original")
        rows, drawn = [], []
        for i, ground in enumerate(floors):
            images = None if pictures is None or originals is None else (originals[i], pictures[i])
            row, parts = measure.expansion(given[i], found[i], edge, images, ground)
            row["passed"] = row["growth"] <= limit and row["lost"] <= limit
            rows.append(row)
            shown = np.repeat(0.25 + 0.5 * given[i][..., None], 3, 2) if pictures is None else pictures[i]
            drawn.append(measure.drawn(shown, parts))
        mean = {key: fmean([row[key] for row in rows]) for key in rows[0] if rows[0][key] is not None}
        passed = all(row["passed"] for row in rows)
        report = {"images": rows, "mean": {k: v for k, v in mean.items() if k != "passed"}, "passed": passed}
        report |= {"band_pixels": edge, "limit": limit}
        heat = tensors.batch(drawn)
        shown = ui.PreviewImage(heat, cls=cls)
        return io.NodeOutput(passed, 100 * mean["growth"], json.dumps(report, indent=2), table(rows), heat, ui=shown)


class LimelightSelectByExpansion(io.ComfyNode):
    """Batch of pictures + masks -> those that keep the subject best."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSelectByExpansion",
            display_name="Select by Expansion",
            category=CATEGORY,
            description="Keeps those pictures of a batch in which the product has grown least, the best first.",
            inputs=[
                io.Image.Input("image", tooltip="The generated pictures to choose from."),
                io.Mask.Input("before", tooltip=BEFORE),
                io.Mask.Input("after", tooltip=AFTER),
                io.Int.Input("keep", default=1, min=1, max=4096, tooltip="How many pictures to keep."),
                io.Combo.Input(
                    "metric",
                    options=list(JUDGES),
                    default=WHOLE,
                    tooltip="What decides, least is best: attached growth with or without what got lost, the paper's "
                    "relative expansion, or the size of the notebook's signed value, in which both cancel.",
                ),
                band_input(),
                io.Mask.Input("floor", optional=True, tooltip="As in Object Expansion."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The best pictures, the best first."),
                io.Mask.Output(display_name="mask", tooltip="Their masks after generation."),
                io.String.Output(display_name="indices", tooltip="Their places in the batch from 0, with commas."),
                io.String.Output(display_name="table", tooltip="Every picture's measures, the best first."),
            ],
        )

    @classmethod
    def execute(cls, image, before, after, keep=1, metric=WHOLE, band=0.6, floor=None) -> io.NodeOutput:
        pictures = tensors.rgb(image)
        given, found = tensors.subjects(before, after)
        if len(found) != len(pictures):
            raise LimelightError(
                f"after: found {len(found)} masks for {len(pictures)} pictures; expected one for each. Connect the "
                "masks that were made from these pictures."
            )
        keep = checks.whole(keep, "keep", 1, 4096)
        if metric not in JUDGES:
            raise LimelightError(f"metric: found {checks.show(metric)}; expected one of {', '.join(JUDGES)}.")
        edge = pixels_of(band, given, "band", 10)
        each = zip(given, found, _floors(floor, given), strict=True)
        rows = [measure.expansion(one, other, edge, None, ground)[0] for one, other, ground in each]
        # what is left to tell equals apart: new things elsewhere, then the raw difference of the masks
        ranks = [(JUDGES[metric](row), row["detached"], row["relative"] + row["shrink"]) for row in rows]
        order = sorted(range(len(rows)), key=ranks.__getitem__)
        best = order[:keep]
        masks = torch.from_numpy(tensors.as_many(tensors.saliency(after, "after"), given, "after")[best])
        return io.NodeOutput(pictures[best], masks, ", ".join(map(str, best)), table(rows, order))


class LimelightLeakMask(io.ComfyNode):
    """Masks before and after -> where the subject grew, to be painted again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightLeakMask",
            display_name="Leak Mask",
            category=CATEGORY,
            description="The place where a generated background has grown the product, as a mask for a repair: only "
            "there the picture is painted again. Black where nothing has grown.",
            inputs=[
                io.Mask.Input("before", tooltip=BEFORE),
                io.Mask.Input("after", tooltip=AFTER),
                band_input(),
                io.Float.Input(
                    "grow",
                    default=2.0,
                    min=0.0,
                    max=50.0,
                    step=0.1,
                    tooltip="How far beyond the leak the mask reaches, in percent of the short side.",
                ),
                io.Boolean.Input(
                    "detached",
                    default=False,
                    tooltip="Whether new things that do not touch the subject belong to it, too.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="White is what to paint again; the subject is black."),
                io.Boolean.Output(display_name="leaks", tooltip="Whether there is anything to repair, in any picture."),
            ],
        )

    @classmethod
    def execute(cls, before, after, band=0.6, grow=2.0, detached=False) -> io.NodeOutput:
        given, found = tensors.subjects(before, after)
        edge, more = pixels_of(band, given, "band", 10), pixels_of(grow, given, "grow", 50)
        detached = checks.flag(detached, "detached")
        leaks = [
            measure.leak(measure.change(one, other, edge), more, detached)
            for one, other in zip(given, found, strict=True)
        ]
        return io.NodeOutput(torch.from_numpy(np.stack(leaks).astype(np.float32)), any(leak.any() for leak in leaks))


def table(rows: list[dict], order: list[int] | None = None) -> str:
    """A line for each picture: percent of the subject (expansion, signed: of the picture), pixels, difference."""
    lines = [f"{'image':>5}" + "".join(f"{name:>11}" for name in COLUMNS)]
    for i in order or range(len(rows)):
        cells = [_cell(name, rows[i][name]) for name in COLUMNS]
        lines.append(f"{i:>5}" + "".join(f"{cell:>11}" for cell in cells) + _verdict(rows[i]))
    return "\n".join(lines)


NODES = [LimelightObjectExpansion, LimelightSelectByExpansion, LimelightLeakMask]


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} px" if name == "reach" else f"{100 * value:.2f} %"


def _verdict(row: dict) -> str:
    return "" if "passed" not in row else "  passed" if row["passed"] else "  failed"


def _floors(floor: object, given: np.ndarray) -> list[np.ndarray | None]:
    """The optional masks of what the segmenter finds where nothing can have grown, one for each picture."""
    if floor is None:
        return [None] * len(given)
    return list(tensors.as_many(tensors.same_frame(tensors.saliency(floor, "floor"), given, "floor"), given, "floor"))


def _pictures(image: object, given: np.ndarray, name: str) -> np.ndarray | None:
    """An optional IMAGE, one for each mask and of its size."""
    if image is None:
        return None
    return tensors.as_many(tensors.same_frame(tensors.pixels(image, name), given, name), given, name)
