"""Nodes that merge several local controls into one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.local import merged
from ..guidance.local.fusing import Fusing
from ..models import fuser
from .local_control_load import CATEGORY, FOLDER

_CHAIN = (
    "Two or more controls have to be applied before: Apply Masked Control, or Apply ControlNet with Control Region."
)


def merge(conditionings: list[list], policy: str, fusing: Fusing | None = None) -> tuple[list[list], list]:
    """CONDITIONINGs whose local controls are one each, and the parts of the first. The same chain gives the same
    object, so that the host joins the calls of positive and negative. Without any control, as after Apply nodes of
    strength 0, everything stays as it is, and there are no parts."""
    made: dict[Any, Any] = {}
    out: list[list] = []
    first: list = []
    for conditioning in conditionings:
        entries = []
        for tensor, options in conditioning:
            control = options.get("control")
            if control is not None and control not in made:
                parts, others = merged.parts_of(control)
                if fusing is not None:
                    fusing.check(parts)
                first = first or parts
                made[control] = (
                    merged.chained(merged.MergedControl(parts, policy, fusing), others) if parts else control
                )
            entries.append([tensor, {**options, "control": made[control]} if control is not None else options])
        out.append(entries)
    if made and not first:
        raise LimelightError(f"positive: found no control of this pack on it. {_CHAIN}")
    if not made:
        logging.warning("Limelight: no control is in force; there is nothing to merge. %s", _CHAIN)
    return out, first


class LimelightRegions(io.ComfyNode):
    """CONDITIONINGs with several local controls -> the same with one, and the regions' masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightRegions",
            display_name="Regions",
            category=CATEGORY,
            description="Settles where several controls with regions overlap, and makes one of them.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The positive prompt, behind all Apply nodes."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, behind the same nodes."),
                io.Combo.Input(
                    "overlap",
                    options=list(merged.POLICIES),
                    default="normalise",
                    tooltip="Where regions overlap. 'sum': both act in full. 'normalise': they share the place. "
                    "'priority': the one applied last, as with layers. 'max': at each spot whichever acts more.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With one merged control."),
                io.Conditioning.Output(display_name="negative", tooltip="With the same control."),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="Each control's region after the overlap is settled, in the order of the Apply nodes: for "
                    "Conditioning (Set Mask), so that each region also has its prompt.",
                ),
                io.Mask.Output(display_name="rest", tooltip="Where no control acts: for the prompt of the background."),
            ],
        )

    @classmethod
    def execute(cls, positive: list, negative: list, overlap: str = "normalise") -> io.NodeOutput:
        if overlap not in merged.POLICIES:
            raise LimelightError(
                f"overlap: found {checks.show(overlap)}; expected one of {', '.join(merged.POLICIES)}."
            )
        (positive, negative), parts = merge([positive, negative], overlap)
        if not parts:
            return io.NodeOutput(positive, negative, torch.zeros(1, 64, 64), torch.ones(1, 64, 64))
        masks = merged.settle([merged.mask_of(part) for part in parts], overlap)
        rest = (1 - torch.stack(masks).sum(0)).clamp(0, 1)
        return io.NodeOutput(positive, negative, torch.cat(masks), rest)


class LimelightCoAdapter(io.ComfyNode):
    """CONDITIONINGs with several CoAdapters -> the same, fused."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightCoAdapter",
            display_name="CoAdapter",
            category=CATEGORY,
            description="Lets CoAdapters listen to each other: the published fuser sets how loud each channel of each "
            "adapter is. It sees only what the adapters say in their regions.",
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="The positive prompt, behind the Apply nodes of all adapters."
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt, behind the same nodes."),
                io.Combo.Input(
                    fuser.INPUT,
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="coadapter-fuser-sd15v1, in models/t2i_adapter or models/controlnet.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How far the fuser is followed. 0 leaves every adapter as it is.",
                ),
                io.Combo.Input(
                    "overlap",
                    options=list(merged.POLICIES),
                    default="sum",
                    tooltip="Where regions overlap, as in Regions. 'sum' is as CoAdapters were trained.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the fused adapters."),
                io.Conditioning.Output(display_name="negative", tooltip="With the same."),
            ],
        )

    @classmethod
    def execute(
        cls, positive: list, negative: list, fuser_name: str, strength: float = 1.0, overlap: str = "sum"
    ) -> io.NodeOutput:
        if overlap not in merged.POLICIES:
            raise LimelightError(
                f"overlap: found {checks.show(overlap)}; expected one of {', '.join(merged.POLICIES)}."
            )
        strength = checks.number(strength, "strength", 0, 2)
        network = fuser.load(Path(folder_paths.get_full_path_or_raise(FOLDER, fuser_name)))
        (positive, negative), _ = merge([positive, negative], overlap, Fusing(network, strength))
        return io.NodeOutput(positive, negative)


NODES = [LimelightRegions, LimelightCoAdapter]
