"""Nodes that check where people will look: scores, a report by region, the best of a batch."""

from __future__ import annotations

import csv
import io as text_io
import json
from statistics import fmean

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.saliency import maps as saliency_maps
from ..guidance.saliency import metrics as metrics
from ..guidance.saliency import pictures as saliency_pictures
from ..guidance.saliency import report as saliency_report
from . import tensors
from .saliency_maps import CATEGORY

MOST = 512  # pixels of the longer side of maps that are scored: they are smooth, and two metrics sort all pixels
CC, SIM, KL, SHARE = "cc", "sim", "kl", "attention share"


class LimelightSaliencyScore(io.ComfyNode):
    """Predicted and target map -> metrics beside their baselines."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSaliencyScore",
            display_name="Saliency Score",
            category=CATEGORY,
            description="Compares where people will look with where they should, by the metrics of saliency "
            "benchmarks. Each stands beside what the middle of the picture and other pictures would get.",
            is_output_node=True,
            inputs=[
                io.Mask.Input("saliency", tooltip="The predicted map, or a batch of them."),
                io.Mask.Input("target", tooltip="Where people should look: one map, or one for each. Any size."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=True,
                    tooltip="Of the 1000 points that are drawn from the target for the metrics that need points.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="json", tooltip="All scores of each pair, and their means."),
                io.String.Output(display_name="table", tooltip="The same as text."),
                io.Float.Output(display_name="cc", tooltip="The correlation, averaged over the batch."),
            ],
        )

    @classmethod
    def execute(cls, saliency, target, seed=0) -> io.NodeOutput:
        maps, targets = _pair(saliency, target)
        results = saliency_report.scored(maps, targets, checks.whole(seed, "seed", 0, 2**31 - 1))
        mean = {name: {k: _mean([one[name][k] for one in results]) for k in row} for name, row in results[0].items()}
        tables = [saliency_report.table(mean)]
        if len(results) > 1:
            tables[0] = "mean\n" + tables[0]
            tables += [f"image {i}\n{saliency_report.table(one)}" for i, one in enumerate(results, 1)]
        table = "\n\n".join(tables)
        found = json.dumps(saliency_report.plain({"images": results, "mean": mean}), indent=2)
        return io.NodeOutput(found, table, mean["cc"]["value"], ui=ui.PreviewText(table))


class LimelightAttentionReport(io.ComfyNode):
    """Saliency map + regions -> share of attention by region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightAttentionReport",
            display_name="Attention Report",
            category=CATEGORY,
            description="How much of the viewers' attention each region gets, and how that compares with its area.",
            is_output_node=True,
            inputs=[
                io.Mask.Input("saliency", tooltip="The predicted map of one picture, or of several."),
                io.Mask.Input("regions", tooltip="A mask for each region, as a batch. Any size."),
                io.String.Input(
                    "names",
                    default="",
                    placeholder="product, headline, logo",
                    dynamic_prompts=False,
                    tooltip="Names of the regions in their order, with commas. Without one a region has its number.",
                ),
                io.Image.Input("image", optional=True, tooltip="The picture, for the overview. Gray without it."),
            ],
            outputs=[
                io.String.Output(display_name="json", tooltip="Shares, lift and rank of each region, and the focus."),
                io.String.Output(display_name="csv", tooltip="The same as a table for a spreadsheet."),
                io.Image.Output(display_name="overview", tooltip="Heat and outlines of the regions with their shares."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, saliency, regions, names="", image=None) -> io.NodeOutput:
        maps = _reduced(tensors.saliency(saliency))
        height, width = maps.shape[1:]
        masks = saliency_maps.resize(tensors.saliency(regions, "regions"), height, width)
        given = [name.strip() for name in names.split(",")] if names.strip() else []
        if len(given) > len(masks):
            raise LimelightError(f"names: found {len(given)}, but there are {len(masks)} regions. Take some out.")
        labels = [*given, *(f"region {i + 1}" for i in range(len(given), len(masks)))]
        if image is None:
            pictures = np.full((1, height, width, 3), 0.5, np.float32)
        else:
            pictures = tensors.rgb(image).cpu().numpy()
        maps, pictures = tensors.pair(maps, pictures, "saliency, image")
        found, drawn = [], []
        for one, picture in zip(maps, pictures, strict=True):
            rows = saliency_report.attention(one, masks)
            found.append([{"name": name, **row} for name, row in zip(labels, rows, strict=True)])
            texts = [f"{row['name']} {100 * row['attention_share']:.0f} %" for row in found[-1]]
            drawn.append(saliency_pictures.regions(saliency_pictures.heat(picture, one, 0.5), masks, texts))
        overview = tensors.batch(drawn)
        report = {
            "images": [{"regions": r, "focus": saliency_report.focus(m)} for r, m in zip(found, maps, strict=True)]
        }
        report = saliency_report.plain(report)
        shown = ui.PreviewImage(overview, cls=cls)
        return io.NodeOutput(json.dumps(report, indent=2, ensure_ascii=False), _csv(report), overview, ui=shown)


class LimelightSelectBySaliency(io.ComfyNode):
    """Batch of images + maps + target -> the best of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSelectBySaliency",
            display_name="Select by Saliency",
            category=CATEGORY,
            description="Keeps those images of a batch that people will look at most as they should, the best first.",
            inputs=[
                io.Image.Input("image", tooltip="The batch to choose from."),
                io.Mask.Input("saliency", tooltip="The predicted map of each image."),
                io.Mask.Input("target", tooltip="Where people should look. Any size."),
                io.Int.Input("keep", default=1, min=1, max=4096, tooltip="How many images to keep."),
                io.Combo.Input(
                    "metric",
                    options=[CC, SIM, KL, SHARE],
                    default=CC,
                    tooltip="What decides. cc: correlation of the maps. sim: their overlap. kl: divergence from the "
                    "target, least is best. attention share: how much of the attention lies in the target's area.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The best images, the best first."),
                io.Mask.Output(display_name="saliency", tooltip="Their maps."),
                io.String.Output(display_name="indices", tooltip="Their places in the batch from 0, with commas."),
                io.String.Output(display_name="table", tooltip="The score of every image, the best first."),
            ],
        )

    @classmethod
    def execute(cls, image, saliency, target, keep=1, metric=CC) -> io.NodeOutput:
        picture, given = tensors.rgb(image), tensors.saliency(saliency)
        if len(picture) != len(given):
            raise LimelightError(
                f"saliency: found {len(given)} maps for {len(picture)} images; expected one for each. Connect the maps "
                "that were predicted from these images."
            )
        keep = checks.whole(keep, "keep", 1, 4096)
        if metric not in (CC, SIM, KL, SHARE):
            raise LimelightError(f"metric: found {checks.show(metric)}; expected cc, sim, kl or attention share.")
        maps, targets = _pair(saliency, target)
        if len(maps) != len(picture):
            raise LimelightError(
                f"target: found {len(targets)} maps for {len(picture)} images; expected one, or as many."
            )
        judge = {CC: metrics.cc, SIM: metrics.sim, KL: metrics.kl, SHARE: _share}[metric]
        values = [judge(*both) for both in zip(maps, targets, strict=True)]
        order = sorted(range(len(values)), key=lambda i: values[i] if metric == KL else -values[i])
        best = order[:keep]
        table = "\n".join(f"{rank}. image {i}: {metric} {values[i]:.3f}" for rank, i in enumerate(order, 1))
        return io.NodeOutput(image[best], torch.from_numpy(given[best]), ", ".join(map(str, best)), table)


NODES = [LimelightSaliencyScore, LimelightAttentionReport, LimelightSelectBySaliency]


def _pair(saliency: torch.Tensor, target: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both as batches of equal number and size, at most `MOST` pixels on a side."""
    maps, targets = _reduced(tensors.saliency(saliency)), tensors.saliency(target, "target", flat=False)
    return tensors.pair(maps, saliency_maps.resize(targets, *maps.shape[1:]), "saliency, target")


def _reduced(maps: np.ndarray) -> np.ndarray:
    shrink = min(1, MOST / max(maps.shape[1:]))
    return saliency_maps.resize(maps, *(max(1, round(side * shrink)) for side in maps.shape[1:]))


def _share(prediction: np.ndarray, target: np.ndarray) -> float:
    """Share of the attention that lies where the target is at least half as bright as at its peak."""
    return float((metrics.density(prediction) * (target >= 0.5 * target.max())).sum())


def _csv(report: dict) -> str:
    lines = text_io.StringIO()
    fields = ["image", "name", "attention_share", "area_share", "lift", "rank"]
    writer = csv.DictWriter(lines, fields, lineterminator="\n")
    writer.writeheader()
    for i, one in enumerate(report["images"]):
        writer.writerows({"image": i, **row} for row in one["regions"])
    return lines.getvalue()


def _mean(values: list[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else float("nan")
