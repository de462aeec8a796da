"""The pack's ComfyUI nodes: one module a family, each with its classes in ``NODES``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

NODES: list[type[io.ComfyNode]] = []


class LimelightExtension(ComfyExtension):
    """What the host loads: every node of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
