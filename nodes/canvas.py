"""What the nodes share whose widget is a drawing: sizes, the picture underneath."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..guidance import checks
from ..guidance.errors import LimelightError
from . import tensors

GRAY = 0.5  # of the preview where there is no background


def size_inputs() -> list[io.Input]:
    """The canvas's width and height."""
    size = {"default": 512, "min": 64, "max": 4096, "step": 8}
    return [
        io.Int.Input("width", tooltip="Width of the image in pixels, a multiple of 8.", **size),
        io.Int.Input("height", tooltip="Height of the image in pixels, a multiple of 8.", **size),
    ]


def background_input() -> io.Input:
    """The picture to draw over."""
    return io.Image.Input(
        "background",
        optional=True,
        tooltip="A picture to draw over, stretched to the canvas. It shows in the canvas and in the "
        "preview and changes nothing else.",
    )


def size_outputs() -> list[io.Output]:
    """Width and height, for the nodes that follow."""
    return [
        io.Int.Output(display_name="width", tooltip="Width in pixels, for the empty latent."),
        io.Int.Output(display_name="height", tooltip="Height in pixels, for the empty latent."),
    ]


def side(value: int, name: str) -> int:
    """A width or height that latents have."""
    value = checks.whole(value, name, 64, 4096)
    if value % 8:
        raise LimelightError(f"{name}: found {value}; expected a multiple of 8. {value // 8 * 8} is the next below.")
    return value


def underneath(background: torch.Tensor | None, height: int, width: int) -> tuple[torch.Tensor, dict | None]:
    """-> (1, height, width, 3) float32 on the CPU: the first image, stretched, or gray; and what to tell the widget."""
    if background is None:
        return torch.full((1, height, width, 3), GRAY), None
    image = tensors.rgb(background)[:1].cpu().movedim(-1, 1)
    resized = torch.nn.functional.interpolate(image, (height, width), mode="bilinear", antialias=True)
    picture = resized.movedim(1, -1).clamp(0, 1)
    # The canvas shows what it lies over even where the node before it has no preview of its own.
    return picture, {"limelight_background": ui.PreviewImage(picture, cls=None).as_dict()["images"]}
