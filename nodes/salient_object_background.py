"""Nodes that prepare a run which paints a new background around a kept subject."""

from __future__ import annotations

import logging
from typing import Any

import torch
from comfy_api.latest import io
from node_helpers import conditioning_set_values

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.expansion.canvas import CELL, Canvas, canvas
from ..models.inpaint_controlnet import InpaintControlNet
from . import tensors
from .schema import advanced, percent

CATEGORY = "limelight/salient object"


def _inputs(control_net: io.Input, strength: float, end: float) -> list[io.Input]:
    return [
        io.Conditioning.Input("positive", tooltip="The prompt: it describes the new background."),
        io.Conditioning.Input("negative", tooltip="The negative prompt."),
        io.Vae.Input("vae", tooltip="The VAE of the checkpoint."),
        io.Image.Input("image", tooltip="The pictures with the subject. One, or a batch with a mask each."),
        io.Mask.Input(
            "mask",
            display_name="subject mask (white = keep)",
            tooltip="White = keep: the subject. Load Image gives the opposite for a cut-out picture; put Invert Mask "
            "between. Soft edges are welcome.",
        ),
        control_net,
        io.Float.Input(
            "strength",
            default=strength,
            min=0.0,
            max=2.0,
            step=0.05,
            tooltip="How much the ControlNet counts; 0 is exactly without it. Lower it if the background gets dull.",
        ),
        percent("start_percent", 0.0, "Where on the noise schedule the ControlNet begins. 0 is pure noise."),
        percent("end_percent", end, "Where on the noise schedule the ControlNet ends. 1 is the finished image."),
        advanced(
            io.Boolean.Input(
                "keep_object",
                default=False,
                tooltip="On: the subject's latent is put back at every step (noise mask), which keeps it closer to the "
                "picture and hardens its edge. Off: as in training; paste the subject over the result.",
            )
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        io.Conditioning.Output(display_name="positive", tooltip="For the sampler."),
        io.Conditioning.Output(display_name="negative", tooltip="For the sampler."),
        io.Latent.Output(
            display_name="latent",
            tooltip="For the sampler, with denoise 1: one for each picture, with room for the whole canvas.",
        ),
    ]


class LimelightSalientBackground(io.ComfyNode):
    """Picture and subject mask -> CONDITIONING and LATENT of an inpainting run with the salient-object ControlNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSalientBackground",
            display_name="Salient Background",
            category=CATEGORY,
            description="Prepares a new background that does not grow the subject: mask, masked image and hint of the "
            "salient-object ControlNet, all from one mask.",
            inputs=_inputs(
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip="From Load Inpainting ControlNet. Left empty, only mask and masked image are set, for an "
                    "inpainting checkpoint.",
                ),
                1.0,
                1.0,
            ),
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        vae: Any,
        image: torch.Tensor,
        mask: torch.Tensor,
        strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        keep_object: bool = False,
        control_net: Any = None,
    ) -> io.NodeOutput:
        window = _window(strength, start_percent, end_percent)
        made = _canvas(image, mask)
        masked = _encoded(vae, made.grey)
        prompts = _inpainting(positive, negative, made, masked)
        if isinstance(control_net, InpaintControlNet):
            control_net = control_net.with_picture(made.latent_mask, masked)
        prompts = _controlled(*prompts, control_net, made.hint, *window)
        return io.NodeOutput(*prompts, _latent(vae, made, keep_object))


class LimelightEcomInpaint(io.ComfyNode):
    """Picture and subject mask -> CONDITIONING and LATENT for ControlNets whose hint is the picture with a hole."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightEcomInpaint",
            display_name="E-Commerce Inpaint",
            category=CATEGORY,
            description="Prepares a new background with the EcomXL inpaint ControlNet for SDXL, whose hint is the "
            "picture with -1 where it is painted. It was trained against growing products, too.",
            inputs=_inputs(
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip="alimama's EcomXL inpaint ControlNet, from Load ControlNet Model. Other inpaint "
                    "ControlNets with such a hint work too, as that for SD 1.5. Left empty, it paints without.",
                ),
                0.5,
                1.0,
            ),
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        vae: Any,
        image: torch.Tensor,
        mask: torch.Tensor,
        strength: float = 0.5,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        keep_object: bool = False,
        control_net: Any = None,
    ) -> io.NodeOutput:
        window = _window(strength, start_percent, end_percent)
        if isinstance(control_net, InpaintControlNet):
            raise LimelightError(
                "control_net: found one with nine input channels, whose hint is the mask. Apply it with Salient "
                "Background."
            )
        made = _canvas(image, mask)
        prompts = _inpainting(positive, negative, made, _encoded(vae, made.grey))
        prompts = _controlled(*prompts, control_net, made.hole, *window)
        return io.NodeOutput(*prompts, _latent(vae, made, keep_object))


NODES = [LimelightSalientBackground, LimelightEcomInpaint]


def _window(strength: float, start: float, end: float) -> tuple[float, float, float]:
    strength = checks.number(strength, "strength", 0, 2)
    never = "the ControlNet would never act", "turn the ControlNet off"
    start, end = checks.window(start, end, *never)
    return strength, start, end


def _canvas(image: torch.Tensor, mask: torch.Tensor) -> Canvas:
    """The canvas; says so if it is larger than the image."""
    made = canvas(*tensors.cutouts(image, mask))
    if any(made.added):
        height, width = made.keep.shape[1:]
        logging.info(
            f"Limelight: the picture gets {made.added[0]} columns at the right and {made.added[1]} rows at the bottom, "
            f"to be painted as background: sides must be multiples of {CELL}, and nothing is cropped. The result is "
            f"{width} x {height}."
        )
    return made


def _encoded(vae: Any, image: torch.Tensor) -> torch.Tensor:
    """(B, 4, H / 8, W / 8) as the VAE returns it."""
    if vae is None:
        raise LimelightError("vae: found nothing; the checkpoint has no VAE. Connect Load VAE.")
    latent = vae.encode(image)
    wanted = (len(image), 4, image.shape[1] // CELL, image.shape[2] // CELL)
    if tuple(latent.shape) != wanted:
        raise LimelightError(
            f"vae: found a latent of shape {tuple(latent.shape)}; expected {wanted}, as of the VAE of Stable Diffusion "
            "1, 2 or XL. Connect the VAE of the checkpoint."
        )
    return latent


def _inpainting(positive: list, negative: list, made: Canvas, masked: torch.Tensor) -> tuple[list, list]:
    """What an inpainting UNet takes its five further channels from; other models leave it alone."""
    values = {"concat_latent_image": masked, "concat_mask": made.latent_mask}
    return conditioning_set_values(positive, values), conditioning_set_values(negative, values)


def _controlled(positive: list, negative: list, control_net: Any, hint: torch.Tensor, *window: float) -> tuple:
    """As the host's own node applies it; at strength 0 not at all."""
    if control_net is None:
        return positive, negative
    import nodes

    return nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, control_net, hint, *window)


def _latent(vae: Any, made: Canvas, keep_object: bool) -> dict[str, torch.Tensor]:
    latent = {"samples": _encoded(vae, made.image)}
    if checks.flag(keep_object, "keep_object"):
        latent["noise_mask"] = 1 - made.keep
    return latent
