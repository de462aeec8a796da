"""Nodes that give a control a region."""

from __future__ import annotations

from typing import Any

import comfy.controlnet
import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.local.adapter_control import of_host
from ..guidance.local.control import LocalControl
from ..guidance.local.merged import MergedControl
from ..guidance.local.region import AUTO, FILLS, WHERE, Region, parse_curve, parse_levels
from ..guidance.local.wrapped import WrappedControl
from . import tensors
from .local_control_load import CATEGORY
from .schema import advanced, percent

AUTO_HALO = -1.0


def region_inputs() -> list[io.Input]:
    """The widgets of a region's settings."""
    return [
        io.Combo.Input(
            "mask_on",
            options=[AUTO, *WHERE],
            default=AUTO,
            tooltip="What the mask is put on. 'features': what the control adds to the model. 'hint': what "
            "the control sees; lines outside go, but it still acts everywhere. 'both' is the cleanest. 'auto': as in "
            "the adapter's training, if its file says that, else 'both'.",
        ),
        io.Float.Input(
            "feather",
            default=0.0,
            min=0.0,
            max=512.0,
            step=1.0,
            tooltip="Pixels over which the region fades in at its edge, inwards: outside there is never anything.",
        ),
        advanced(
            io.Float.Input(
                "blank",
                optional=True,
                default=0.0,
                min=0.0,
                max=1.0,
                step=0.05,
                tooltip="How much of the response to an empty hint is subtracted. Adapters also say 'there is nothing "
                "here'; with 1 they only add what the hint holds. A ControlNet then takes twice its time.",
            )
        ),
        advanced(
            io.Float.Input(
                "halo",
                optional=True,
                default=AUTO_HALO,
                min=AUTO_HALO,
                max=1024.0,
                step=1.0,
                tooltip="Pixels around the region in which the hint stays as it is, where the mask is put on it: the "
                "cut makes lines of its own. -1: as far as the adapter's fine levels see, 64 for ControlNets.",
            )
        ),
        advanced(
            io.Combo.Input(
                "fill",
                optional=True,
                options=list(FILLS),
                default="black",
                tooltip="What an empty hint looks like, and what the hint becomes outside of region and halo. Lines: "
                "black. Depth, tile, colour: gray.",
            )
        ),
        advanced(
            io.String.Input(
                "level_weights",
                optional=True,
                default="1, 1, 1, 1",
                tooltip="Strength of each level, the finest first. A common softer choice for adapters: 0.25, 0.62, "
                "0.825, 1.",
            )
        ),
        advanced(
            io.String.Input(
                "curve",
                optional=True,
                default="",
                tooltip="Strength over the noise schedule, as points 'share:factor', such as 0:1, 0.5:1, 0.8:0. Empty: "
                "the same throughout.",
            )
        ),
        advanced(_multiplier("cond_strength", "positive")),
        advanced(_multiplier("uncond_strength", "negative")),
    ]


def _multiplier(name: str, prompt: str) -> io.Float.Input:
    tooltip = f"Strength for the {prompt} prompt. 1 for both is as usual."
    return io.Float.Input(name, optional=True, default=1.0, min=0.0, max=10.0, step=0.05, tooltip=tooltip)


def region_of(
    mask: Any,
    strength: float = 1.0,
    mask_on: str = AUTO,
    feather: float = 0.0,
    blank: float = 0.0,
    halo: float = AUTO_HALO,
    fill: str = "black",
    level_weights: str = "1, 1, 1, 1",
    curve: str = "",
    cond_strength: float = 1.0,
    uncond_strength: float = 1.0,
) -> Region:
    """The region of a node's inputs. mask: MASK, or none for everywhere."""
    if mask_on not in (AUTO, *WHERE):
        expected = ", ".join((AUTO, *WHERE))
        raise LimelightError(f"mask_on: found {checks.show(mask_on)}; expected one of {expected}.")
    if fill not in FILLS:
        raise LimelightError(f"fill: found {checks.show(fill)}; expected one of {', '.join(FILLS)}.")
    halo = checks.number(halo, "halo", AUTO_HALO, 4096)
    return Region(
        mask=None if mask is None else _mask(mask),
        where=mask_on,
        feather=checks.number(feather, "feather", 0, 4096),
        halo=None if halo < 0 else halo,
        fill=FILLS[fill],
        blank=checks.number(blank, "blank", 0, 1),
        strength=checks.number(strength, "strength", 0, 10),
        levels=parse_levels(level_weights),
        curve=parse_curve(curve),
        cond=checks.number(cond_strength, "cond_strength", 0, 10),
        uncond=checks.number(uncond_strength, "uncond_strength", 0, 10),
    )


def _mask(mask: Any) -> torch.Tensor:
    found = torch.from_numpy(tensors.saliency(mask, "mask"))
    if float(found.max()) < 0.5 / 255:
        raise LimelightError(
            "mask: found an empty mask (nothing is white), so that the control would do nothing. Paint where it should "
            "act; to turn it off, set strength to 0."
        )
    return found


def local(control: Any) -> LocalControl:
    """Any CONTROL_NET as one that can have a region. Raises LimelightError for anything else."""
    if isinstance(control, MergedControl) or not isinstance(control, comfy.controlnet.ControlBase):
        raise LimelightError(
            f"control_net: found {type(control).__name__}; expected the CONTROL_NET of a loader. Connect Load "
            "T2I-Adapter or Load ControlNet Model."
        )
    if isinstance(control, LocalControl):
        return control
    return of_host(control) or WrappedControl(control)


class LimelightControlRegion(io.ComfyNode):
    """CONTROL_NET + MASK -> CONTROL_NET."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightControlRegion",
            display_name="Control Region",
            category=CATEGORY,
            description="Gives a ControlNet or T2I-Adapter a region in which it acts. What it adds to the model is "
            "exactly nothing elsewhere, at every level.",
            inputs=[
                io.ControlNet.Input("control_net", tooltip="From any loader of ControlNets or T2I-Adapters."),
                io.Mask.Input(
                    "mask",
                    tooltip="White where the control acts; grays act partly. Of the hint's aspect, over which it "
                    "lies. A batch: one for each image.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Multiplied with the strength of Apply ControlNet. 0 is exactly no control.",
                ),
                *region_inputs(),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net", tooltip="For Apply ControlNet and any other node that takes one."
                )
            ],
        )

    @classmethod
    def execute(cls, control_net: Any, mask: torch.Tensor, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(local(control_net).with_region(region_of(mask, **settings)))


class LimelightMaskedAdapterApply(io.ComfyNode):
    """CONDITIONINGs + CONTROL_NET + hint + mask -> CONDITIONINGs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightMaskedAdapterApply",
            display_name="Apply Masked Control",
            category=CATEGORY,
            description="Applies a T2I-Adapter or ControlNet in a region: Control Region and Apply ControlNet in one.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The positive prompt. Controls on it already stay."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.ControlNet.Input("control_net", tooltip="From any loader of ControlNets or T2I-Adapters."),
                io.Image.Input("image", tooltip="The hint: edges, depth, a pose; of the whole image."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Of the control. 0 is exactly no control.",
                ),
                percent(
                    "start_percent", 0.0, "Where on the noise schedule the control begins. 0 is pure noise.", step=0.001
                ),
                percent(
                    "end_percent",
                    1.0,
                    "Where on the noise schedule the control ends. Adapters do most of their work early.",
                    step=0.001,
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the control acts. Without one it acts everywhere. Of the hint's aspect.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Only for ControlNets that need one (SD 3, Flux)."),
                *region_inputs(),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the control."),
                io.Conditioning.Output(display_name="negative", tooltip="With the control."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        control_net: Any,
        image: torch.Tensor,
        strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        mask: torch.Tensor | None = None,
        vae: Any = None,
        **settings: Any,
    ) -> io.NodeOutput:
        import nodes

        never = "the control would never act", "turn the control off"
        start, end = checks.window(start_percent, end_percent, *never)
        control = local(control_net).with_region(region_of(mask, **settings))
        strength = checks.number(strength, "strength", 0, 10)
        apply = nodes.ControlNetApplyAdvanced().apply_controlnet
        return io.NodeOutput(*apply(positive, negative, control, image, strength, start, end, vae))


NODES = [LimelightControlRegion, LimelightMaskedAdapterApply]
