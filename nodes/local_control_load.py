"""Node that loads T2I-Adapters of every layout."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.local.adapter_control import AdapterControl
from ..models import adapter_files
from ..models.fuser import TASKS
from .schema import advanced

CATEGORY = "limelight/local control"
FOLDER = "controlnet"  # the host's name for models/controlnet and models/t2i_adapter together
UNKNOWN = "from the file's name"
_WORDS = {"seg": "segmentation", "colour": "color", "pose": "openpose"}


class LimelightAdapterLoader(io.ComfyNode):
    """File -> CONTROL_NET."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightAdapterLoader",
            display_name="Load T2I-Adapter",
            category=CATEGORY,
            description="Loads a T2I-Adapter of any layout: TencentARC's and diffusers' full, light and SDXL adapters, "
            "with prefixes of trainers, with three levels, CoAdapters. It acts everywhere until it gets a region.",
            inputs=[
                io.Combo.Input(
                    adapter_files.INPUT,
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A file in models/t2i_adapter or models/controlnet: safetensors, or .pth of which only the "
                    "weights are read.",
                ),
                advanced(
                    io.Combo.Input(
                        "base_model",
                        optional=True,
                        options=list(adapter_files.KINDS),
                        default=adapter_files.KINDS[0],
                        tooltip="What the adapter was made for. Files nearly always tell; those with a hint of 4 or 12 "
                        "channels look like SDXL's.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "task",
                        optional=True,
                        options=[UNKNOWN, *TASKS],
                        default=UNKNOWN,
                        tooltip="The kind of hint that the adapter takes. Only CoAdapter needs it.",
                    )
                ),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net",
                    tooltip="For Control Region, Apply Masked Control, or ComfyUI's own Apply ControlNet.",
                )
            ],
        )

    @classmethod
    def execute(cls, adapter_name: str, base_model: str = adapter_files.KINDS[0], task: str = UNKNOWN) -> io.NodeOutput:
        if task != UNKNOWN and task not in TASKS:
            raise LimelightError(f"task: found {checks.show(task)}; expected one of {', '.join((UNKNOWN, *TASKS))}.")
        path = Path(folder_paths.get_full_path_or_raise(FOLDER, adapter_name))
        network = adapter_files.load(path, base_model)
        task = task_of(path.stem) if task == UNKNOWN else task
        return io.NodeOutput(AdapterControl(network, task, adapter_files.mask_mode(path)))


def task_of(name: str) -> str:
    """The kind of hint that a file's name tells, or ""."""
    found = [task for task in TASKS if task in name.lower()]
    return (found or [task for word, task in _WORDS.items() if word in name.lower()] or [""])[0]


NODES = [LimelightAdapterLoader]
