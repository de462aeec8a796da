"""Files of inpainting ControlNets and UNets -> the host's CONTROL_NET and MODEL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.model_detection
import comfy.model_management
import comfy.sd

from ..guidance.errors import LimelightError
from . import files, inpaint_layouts
from .inpaint_controlnet import CHANNELS, InpaintControlNet

YAHOO = "https://huggingface.co/yahoo-inc/photo-background-generation"
PUBLISHED = {
    "control_net_name": f"The salient-object ControlNet for Stable Diffusion 2 inpainting is at {YAHOO} as controlnet/"
    "diffusion_pytorch_model.safetensors (1.46 GB, Apache-2.0)",
    "model_name": f"The UNet of Stable Diffusion 2 inpainting is at {YAHOO} as unet/"
    "diffusion_pytorch_model.safetensors (3.46 GB), and in sd2-community/stable-diffusion-2-inpainting",
}
LATENT_CHANNELS = 4


def load_control_net(path: Path, name: str) -> Any:
    """A file's ControlNet. With nine input channels -> InpaintControlNet, with four -> what the host makes of it.

    Read in both layouts, from any dictionary in the file, behind any prefix. name: of the node's input, for errors.
    Raises LimelightError: no ControlNet, other channels, weights missing or of the wrong size.
    """
    where = f"{name} ({path.name})"
    found = inpaint_layouts.find(files.read_pieces(path, name), inpaint_layouts.CONTROLNET)
    if found is None:
        raise LimelightError(
            f"{where}: not a ControlNet of Stable Diffusion 1, 2 or XL. Load others with Load ControlNet Model. "
            f"{PUBLISHED[name]}."
        )
    state, layout = found
    channels, _ = inpaint_layouts.first_convolution(state, layout, where)
    if channels == LATENT_CHANNELS:
        return _not_none(_built(lambda: comfy.controlnet.load_controlnet(str(path)), where), where)
    if channels != CHANNELS:
        raise LimelightError(
            f"{where}: found {channels} input channels; expected {CHANNELS} (noisy latent 4, mask 1, masked latent 4), "
            "or 4 of an ordinary ControlNet. It was made for another kind of model, and cannot be used here."
        )
    if layout == "diffusers":
        state = inpaint_layouts.to_original(state, where)
    width = _built(lambda: comfy.model_detection.detect_unet_config(state, "")["context_dim"], where)
    control = _not_none(_built(lambda: comfy.controlnet.load_controlnet_state_dict(dict(state)), where), where)
    _check_whole(control.control_model, state, where)
    return InpaintControlNet.of(control, width)


def load_model(path: Path, name: str) -> Any:
    """A file's inpainting UNet, in the diffusers layout or the original one, as the host's MODEL. Raises LimelightError
    as `load_control_net`, and for four input channels."""
    where = f"{name} ({path.name})"
    found = inpaint_layouts.find(files.read_pieces(path, name), inpaint_layouts.UNET)
    if found is None:
        raise LimelightError(f"{where}: not a UNet of Stable Diffusion 1, 2 or XL. {PUBLISHED[name]}.")
    state, layout = found
    channels, _ = inpaint_layouts.first_convolution(state, layout, where)
    if channels != CHANNELS:
        remedy = "Load it with Load Diffusion Model." if channels == LATENT_CHANNELS else "It cannot be used here."
        raise LimelightError(
            f"{where}: found {channels} input channels, so that this is no inpainting model; expected {CHANNELS} "
            f"(noisy latent 4, mask 1, masked latent 4). {remedy}"
        )
    if layout == "diffusers":
        state = inpaint_layouts.to_original(state, where)
    if _built(lambda: comfy.model_detection.model_config_from_unet(state, ""), where) is None:
        width = comfy.model_detection.detect_unet_config(state, "")["context_dim"]
        raise LimelightError(
            f"{where}: an inpainting UNet of no model that ComfyUI knows (its text is {width} wide). Expected one of "
            "Stable Diffusion 1.5 (768), 2 (1024) or XL (2048)."
        )
    model = _built(lambda: comfy.sd.load_diffusion_model_state_dict(dict(state)), where)
    _check_whole(model.model.diffusion_model, state, where)
    return model


def _built(build: Any, where: str) -> Any:
    """What the host builds. Its errors about weights of the wrong size, or about whole blocks that are not there,
    become ours."""
    try:
        return build()
    except comfy.model_management.OOM_EXCEPTION:
        raise
    except (RuntimeError, KeyError, IndexError, AssertionError, TypeError) as error:
        raise LimelightError(
            f"{where}: its weights do not go together ({' '.join(str(error).split())[:300]}). Download it again."
        ) from error


def _check_whole(network: Any, state: inpaint_layouts.State, where: str) -> None:
    """The host only logs weights that are missing, and leaves them at random."""
    wanted = network.state_dict().keys()
    problems = [f"{key} is missing" for key in sorted(wanted - state.keys())]
    problems += [f"{key} is not known" for key in sorted(state.keys() - wanted)]
    if problems:
        raise LimelightError(
            f"{where}: the file is not whole: {'; '.join(problems[:3])} ({len(problems)} of {len(wanted)} weights). "
            "Download it again."
        )


def _not_none(control: Any, where: str) -> Any:
    if control is None:
        raise LimelightError(f"{where}: ComfyUI finds no ControlNet in it. Download it again.")
    return control
