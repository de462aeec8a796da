"""The pack's ComfyUI nodes: one module a family, each with its classes in ``NODES``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    highlight_analysis,
    highlight_bias,
    highlight_canvas,
    highlight_document,
    highlight_gligen,
    highlight_guidance,
    highlight_layers,
    highlight_preview,
    highlight_prompt,
    highlight_published,
    highlight_score,
    highlight_scribbles,
    highlight_tokens,
    local_control_apply,
    local_control_hints,
    local_control_load,
    local_control_merge,
    local_control_structure,
    saliency_control,
    saliency_display,
    saliency_editor,
    saliency_guidance,
    saliency_maps,
    saliency_predict,
    saliency_retouch,
    saliency_score,
    salient_object_background,
    salient_object_finish,
    salient_object_guard,
    salient_object_loaders,
    salient_object_measure,
    salient_object_place,
)

NODES: list[type[io.ComfyNode]] = [
    *highlight_canvas.NODES,
    *highlight_document.NODES,
    *highlight_scribbles.NODES,
    *highlight_preview.NODES,
    *highlight_prompt.NODES,
    *highlight_tokens.NODES,
    *highlight_guidance.NODES,
    *highlight_bias.NODES,
    *highlight_gligen.NODES,
    *highlight_published.NODES,
    *highlight_analysis.NODES,
    *highlight_layers.NODES,
    *highlight_score.NODES,
    *saliency_editor.NODES,
    *saliency_maps.NODES,
    *saliency_display.NODES,
    *saliency_control.NODES,
    *saliency_predict.NODES,
    *saliency_score.NODES,
    *saliency_guidance.NODES,
    *saliency_retouch.NODES,
    *salient_object_loaders.NODES,
    *salient_object_place.NODES,
    *salient_object_background.NODES,
    *salient_object_measure.NODES,
    *salient_object_guard.NODES,
    *salient_object_finish.NODES,
    *local_control_load.NODES,
    *local_control_apply.NODES,
    *local_control_merge.NODES,
    *local_control_structure.NODES,
    *local_control_hints.NODES,
]


class LimelightExtension(ComfyExtension):
    """What the host loads: every node of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
