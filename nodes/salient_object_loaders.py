"""Nodes that load what salient-object-aware background generation needs, and ComfyUI's own loaders do not read."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..guidance.errors import LimelightError
from ..models import files, inpaint_files

CATEGORY = "limelight/salient object"


class LimelightInpaintControlNetLoader(io.ComfyNode):
    """File -> CONTROL_NET that sees mask and masked image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightInpaintControlNetLoader",
            display_name="Load Inpainting ControlNet",
            category=CATEGORY,
            description="Loads a ControlNet that was trained on an inpainting model and sees what that sees (nine "
            "input channels), as Yahoo's for salient objects. Ordinary ControlNets load as ever.",
            inputs=[
                io.Combo.Input(
                    "control_net_name",
                    options=_offered("controlnet", {"unet"}),
                    tooltip="A file in models/controlnet, or the ControlNet of a folder in models/diffusers. For "
                    "Stable Diffusion 1.5, 2 and XL.",
                )
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net",
                    tooltip="For Salient Background, or Apply ControlNet behind Inpaint Model Conditioning.",
                )
            ],
        )

    @classmethod
    def execute(cls, control_net_name: str) -> io.NodeOutput:
        path = _path("controlnet", control_net_name, "control_net_name")
        return io.NodeOutput(inpaint_files.load_control_net(path, "control_net_name"))


class LimelightInpaintModelLoader(io.ComfyNode):
    """File of a UNet with nine input channels -> MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightInpaintModelLoader",
            display_name="Load Inpainting Model",
            category=CATEGORY,
            description="Loads the UNet of an inpainting model from a diffusers folder. ComfyUI's own loaders know "
            "that of Stable Diffusion 2 in single-file checkpoints only.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=_offered("diffusion_models", {"controlnet"}),
                    tooltip="A file in models/diffusion_models, or the UNet of a folder in models/diffusers. For "
                    "Stable Diffusion 1.5, 2 and XL inpainting.",
                )
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The UNet. Text encoder and VAE have loaders of their own: Load CLIP and Load VAE.",
                )
            ],
        )

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        path = _path("diffusion_models", model_name, "model_name")
        return io.NodeOutput(inpaint_files.load_model(path, "model_name"))


NODES = [LimelightInpaintControlNetLoader, LimelightInpaintModelLoader]


def _offered(kind: str, others: set[str]) -> list[str]:
    """The files of the kind's folders, and of the diffusers folders, less those in parts of such a folder that hold
    something else."""
    names = list(folder_paths.get_filename_list(kind))
    endings = folder_paths.supported_pt_extensions
    for folder in folder_paths.get_folder_paths("diffusers"):
        names += [name for name in folder_paths.recursive_search(folder)[0] if Path(name).suffix.lower() in endings]
    return sorted(files.offered(dict.fromkeys(names), files.OTHER_PARTS | others))


def _path(kind: str, name: str, widget: str) -> Path:
    """Where the file is. Raises LimelightError with the places that were searched and where it is published."""
    found = folder_paths.get_full_path(kind, name)
    if found is not None:
        return Path(found)
    for folder in folder_paths.get_folder_paths("diffusers"):
        # What comes over the API may be any text; only names below the folder count.
        if (path := Path(folder, name)).is_file() and Path(folder).resolve() in path.resolve().parents:
            return path
    raise LimelightError(
        f"{widget}: {name} is neither in models/{kind} nor in models/diffusers. Put it there and press R. "
        f"{inpaint_files.PUBLISHED[widget]}."
    )
