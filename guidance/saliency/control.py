"""A ControlNet whose hint is a saliency map, as GazeFusion's: strength, window and chaining are those of the host.

Only the hint's way to the network differs. The host takes a hint to the latent's size by nearest neighbours and cuts it
to the latent's aspect, which makes blocks of a smooth map and loses what lies at its edges. Here the whole map is
resized with a filter, its values kept: the maps of GazeFusion's authors peak at 0.70 or at 1, and both are meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..errors import LimelightError
from .maps import resize

CHANNELS = 3  # of the hint, all alike, as in training
# models by the width of their encoded prompts
BASES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "the SDXL refiner", 2048: "SDXL"}
LEAST = 7  # hints that a batch of maps is repeated to

Conditioning = list[list]
Preprocess = Callable[[torch.Tensor], torch.Tensor]


def apply(
    conditionings: dict[str, Conditioning],
    control_net: Any,
    maps: np.ndarray,
    strength: float,
    window: tuple[float, float],
    vae: Any = None,
) -> list[Conditioning]:
    """Conditionings by name ("positive", "negative") -> the same under the ControlNet, the inputs left as they are.

    maps: (B, H, W) in [0, 1]; one for each picture of a batch, in order and from the start again, or one for all.
    strength: 0 gives back the very same conditionings. window: start and end of the schedule, shares. vae: for
    ControlNets whose hint is encoded. A ControlNet that a conditioning has already acts as well.
    """
    check(conditionings, control_net, vae)
    if strength == 0:
        return list(conditionings.values())
    hint = torch.from_numpy(maps)[:, None].expand(-1, CHANNELS, -1, -1)
    # The host joins prompts into one batch only if they have the very same control: one for each that came before.
    made: dict[Any, Any] = {}

    def after(previous: Any) -> Any:
        if previous not in made:
            control = control_net.copy().set_cond_hint(hint, strength, window, vae=vae)
            control.preprocess_image = fitted(maps, control.preprocess_image)
            control.set_previous_controlnet(previous)
            made[previous] = control
        return made[previous]

    return [
        [
            [tensor, {**options, "control": after(options.get("control")), "control_apply_to_uncond": False}]
            for tensor, options in conditioning
        ]
        for conditioning in conditionings.values()
    ]


def fitted(maps: np.ndarray, further: Preprocess) -> Preprocess:
    """-> what the host's ControlNet does with its hint once it has brought it to the latent's size: our own hint of
    that size takes its place, and goes through what the ControlNet would have done with it (`further`)."""
    batch = _repeated(maps)

    def preprocess(hint: torch.Tensor) -> torch.Tensor:
        resized = torch.from_numpy(resize(batch, *hint.shape[-2:]))
        return further(resized[:, None].expand(-1, CHANNELS, -1, -1).to(hint))

    return preprocess


def _repeated(maps: np.ndarray) -> np.ndarray:
    """Several maps, from the first again until their number is a prime of `LEAST` or more.

    The host hands the hints to a batch of pictures in order for each prompt, except where there happen to be as many
    hints as pictures and prompts together: four maps for two pictures, and the negative prompt would get maps 3 and 4.
    A prime is no such product.
    """
    if len(maps) == 1:
        return maps
    count = max(len(maps), LEAST)
    while any(count % divisor == 0 for divisor in range(2, count)):
        count += 1
    return maps[np.arange(count) % len(maps)]


def context_width(control_net: Any) -> int | None:
    """Width of the encoded prompts that a ControlNet of the UNet kind takes; None for other kinds."""
    model = getattr(control_net, "control_model", None)
    layers = model.named_modules() if isinstance(model, torch.nn.Module) else ()
    return next((layer.in_features for name, layer in layers if name.endswith("attn2.to_k")), None)


def check(conditionings: dict[str, Conditioning], control_net: Any, vae: Any) -> None:
    """Raises LimelightError where the ControlNet cannot work on the conditionings."""
    if not all(hasattr(control_net, name) for name in ("copy", "set_cond_hint", "set_previous_controlnet")):
        raise LimelightError(
            "control_net: found no ControlNet; expected one from Load ControlNet Model. See that the file is one: a "
            "GazeFusion checkpoint is made one by python -m limelight.models.convert."
        )
    first = getattr(getattr(control_net, "control_model", None), "input_hint_block", None)
    channels = first[0].in_channels if first is not None else CHANNELS
    if channels != CHANNELS:
        raise LimelightError(
            f"control_net: found one whose hint has {channels} channels; a saliency map is a picture of {CHANNELS}. "
            "This ControlNet was made for something else."
        )
    if getattr(control_net, "latent_format", None) is not None and vae is None:
        raise LimelightError(
            "vae: found nothing, and this ControlNet takes its map encoded. Connect the VAE of the checkpoint."
        )
    wanted = context_width(control_net)
    for name, conditioning in conditionings.items():
        for tensor, options in conditioning:
            found = options.get("cross_attn_controlnet", tensor).shape[-1]
            if wanted is not None and found != wanted:
                raise LimelightError(
                    f"control_net: this ControlNet is for {_base(wanted)}, but the {name} prompt was encoded for "
                    f"{_base(found)}. Use a checkpoint of the ControlNet's kind, or a ControlNet of the checkpoint's."
                )


def _base(width: int) -> str:
    return f"{BASES.get(width, 'another model')} (prompts {width} wide)"
