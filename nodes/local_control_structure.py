"""The node that gives a region of any model's pictures the structure of a reference, without an adapter."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.local.structure import END, FEATHER, MAGNITUDE, SIGNED, START, Steps, attach
from . import tensors
from .local_control_load import CATEGORY
from .schema import advanced, percent


class LimelightLocalStructure(io.ComfyNode):
    """MODEL -> MODEL whose pictures have the reference's edges in a region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightLocalStructure",
            display_name="Local Structure",
            category=CATEGORY,
            description="While sampling, moves what the model predicts towards the edges of a reference, in a region "
            "only. Needs no adapter, no ControlNet and no training; works with any image model and any sampler.",
            inputs=[
                io.Model.Input("model", tooltip="Any image model, with LoRAs and patches as you like."),
                io.Latent.Input(
                    "reference",
                    tooltip="The picture whose structure is wanted, through VAE Encode with this model's VAE; one, or "
                    "one for each image of the batch. Of the image's shape; another size is resized.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="The region, white; one, or one for each image of the batch. Of the image's shape, any "
                    "size. Outside nothing is moved.",
                ),
                io.Float.Input(
                    "strength",
                    default=Steps.strength,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How far the prediction is moved. 0 turns it off: the result is that without this node. 1 "
                    "follows the reference closely.",
                ),
                percent(
                    "start_percent",
                    START,
                    "Where on the noise schedule it begins. Late, everything outside the region stays as it "
                    "would be. Earlier, down to 0, the model makes something coherent of the structure, and the rest "
                    "of the picture changes with it.",
                ),
                percent(
                    "end_percent",
                    END,
                    "Where it ends. 1 is the finished image. Sooner, the model adds details of its own.",
                ),
                io.Combo.Input(
                    "gradients",
                    options=[SIGNED, MAGNITUDE],
                    default=Steps.gradients,
                    tooltip="What is compared. 'signed': edges with the colours and brightness on either side. "
                    "'magnitude': only where edges are and how strong, so that colours may differ; it follows less "
                    "closely.",
                ),
                io.Float.Input(
                    "feather",
                    default=FEATHER,
                    min=0.0,
                    max=512.0,
                    step=1.0,
                    tooltip="Pixels of the image over which the region fades in at its edge, inwards. With 0 it "
                    "follows up to the edge, and more of the picture around it changes.",
                ),
                advanced(
                    io.Int.Input(
                        "scales",
                        optional=True,
                        default=Steps.scales,
                        min=1,
                        max=4,
                        tooltip="How many scales are compared, each twice as coarse as the one before. More carry "
                        "large shapes, one only outlines.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "iterations",
                        optional=True,
                        default=Steps.iterations,
                        min=1,
                        max=50,
                        tooltip="Descents for each call of the model. They are cheap.",
                    )
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The guided model, for any sampler node.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        reference,
        mask,
        strength,
        start_percent,
        end_percent,
        gradients=Steps.gradients,
        feather=FEATHER,
        scales=Steps.scales,
        iterations=Steps.iterations,
    ) -> io.NodeOutput:
        start_percent, end_percent = checks.window(
            start_percent, end_percent, "nothing would be guided", "turn guidance off"
        )
        if gradients not in (SIGNED, MAGNITUDE):
            raise LimelightError(f"gradients: found {checks.show(gradients)}; expected {SIGNED} or {MAGNITUDE}.")
        steps = Steps(
            strength=checks.number(strength, "strength", 0.0, 2.0),
            gradients=gradients,
            scales=checks.whole(scales, "scales", 1, 4),
            iterations=checks.whole(iterations, "iterations", 1, 50),
        )
        feather = checks.number(feather, "feather", 0.0, 512.0)
        tensors.masks(mask)  # raises for one that is empty
        masks, wanted = tensors.saliency(mask, "mask"), samples(reference, "reference")
        return io.NodeOutput(attach(model, wanted, masks, steps, start_percent, end_percent, feather))


NODES = [LimelightLocalStructure]


def samples(latent: Any, name: str) -> torch.Tensor:
    """The tensor of a LATENT, checked. name: of the node's input."""
    found = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(found, torch.Tensor) or not found.numel():
        raise LimelightError(f"{name}: found {checks.show(latent)}; expected a LATENT. Connect VAE Encode.")
    return found
