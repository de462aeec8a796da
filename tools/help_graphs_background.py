"""The small graphs that the help pages of new backgrounds show; see `help_graphs`."""

from __future__ import annotations

from .help_graphs import PICTURE, Graph, Place, loader, mask, node

CONTROL_NET = "photo-background-generation/controlnet/diffusion_pytorch_model.safetensors"
UNET = "photo-background-generation/unet/diffusion_pytorch_model.safetensors"
ECOM = "EcomXL_controlnet_inpaint/diffusion_pytorch_model.safetensors"


def background(kind: str, control: dict, at: Place, size: Place = None, load: Place = None) -> Graph:
    """A picture, its mask and the prompts in a node that prepares a new background, and the sampler behind it."""
    prompts = {"positive": ("prompt", 0), "negative": ("none", 0)}
    return {
        "load": loader(load),
        "picture": node("LoadImage", None, image=PICTURE),
        "mask": mask(None),
        "prompt": node("CLIPTextEncode", None, clip=("load", 1), text="a marble table in a bright kitchen"),
        "none": node("CLIPTextEncode", None, title="Negative prompt", clip=("load", 1), text=""),
        "control": control,
        "here": node(
            kind,
            at,
            size,
            **prompts,
            vae=("load", 2),
            image=("picture", 0),
            mask=("mask", 0),
            control_net=("control", 0),
            strength=0.5 if kind == "LimelightEcomInpaint" else 1.0,
        ),
        "sampler": node(
            "KSampler",
            (700, 0),
            (240, 0),
            model=("load", 0),
            positive=("here", 0),
            negative=("here", 1),
            latent_image=("here", 2),
        ),
    }


GRAPHS: dict[str, Graph] = {
    "LimelightInpaintControlNetLoader": background(
        "LimelightSalientBackground",
        node("LimelightInpaintControlNetLoader", (0, 0), (320, 0), control_net_name=CONTROL_NET),
        (350, 0),
        (320, 0),
    ),
    "LimelightInpaintModelLoader": {
        "here": node("LimelightInpaintModelLoader", (0, 0), (320, 0), model_name=UNET),
        "sampler": node("KSampler", (350, 0), (270, 0), model=("here", 0)),
    },
    "LimelightSalientBackground": background(
        "LimelightSalientBackground",
        node("LimelightInpaintControlNetLoader", (0, 0), (320, 0), control_net_name=CONTROL_NET),
        (350, 0),
        (320, 0),
        (0, 150),
    ),
    "LimelightEcomInpaint": background(
        "LimelightEcomInpaint",
        node("ControlNetLoader", (0, 0), (320, 0), control_net_name=ECOM),
        (350, 0),
        (320, 0),
        (0, 150),
    ),
}
