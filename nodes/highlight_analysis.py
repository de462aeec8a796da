"""Nodes that show why: where attention lay while sampling."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..guidance import checks
from ..guidance.attention import record, sheet
from ..guidance.attention.recording import Recording, choose_steps
from . import tensors
from .schema import Attention, advanced


class LimelightAttentionRecord(io.ComfyNode):
    """MODEL -> MODEL that notes its attention while sampling, and the record of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightAttentionRecord",
            display_name="Attention Record",
            category="limelight/highlight",
            description="Notes, while sampling, where the attention of each highlighted phrase lies. The image stays "
            "the same to the last bit. Attention Preview shows the record, Highlight Score rates it.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model, guided or not. Put this node last before the sampler as a rule."
                ),
                advanced(
                    io.Int.Input(
                        "every",
                        optional=True,
                        default=1,
                        min=1,
                        max=100,
                        tooltip="Record one of this many steps, and the last one. 1 records all of them.",
                    )
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model to sample with. Use it for one sampler only."),
                Attention.Output(
                    display_name="record",
                    tooltip="What the last run of this model showed; empty until the sampler has run.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, every=1) -> io.NodeOutput:
        return io.NodeOutput(*record.attach(model, checks.whole(every, "every", 1, 100)))


class LimelightAttentionPreview(io.ComfyNode):
    """LIMELIGHT_ATTENTION + IMAGE -> heat maps, loss curve, final maps as masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightAttentionPreview",
            display_name="Attention Preview",
            category="limelight/highlight",
            description="Shows where the attention of each highlighted phrase lay at chosen steps of the sampling run, "
            "over the image and with the outline of its highlight, and how its loss fell.",
            is_output_node=True,
            inputs=[
                Attention.Input("record", tooltip="From Attention Record."),
                io.Image.Input(
                    "image",
                    tooltip="The decoded image of the sampler that uses the recorded model. It makes this node run "
                    "after the sampler.",
                ),
                io.String.Input(
                    "steps",
                    default="0%, 20%, 40%, last",
                    tooltip='Which steps to show: "all", or a list of step numbers from 0, percents of the noise '
                    'schedule, "first" and "last". A step that was not recorded stands for the nearest that was.',
                ),
                io.Float.Input(
                    "opacity",
                    default=0.65,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How strongly the heat covers the image: 0 shows only outlines, 1 only the heat.",
                ),
                advanced(
                    io.Int.Input(
                        "cell_size",
                        optional=True,
                        default=256,
                        min=64,
                        max=1024,
                        step=8,
                        tooltip="Longer side of one picture of the sheet in pixels. With very many steps it is less.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sheet",
                    tooltip="A row for each highlight, a column for each step: the share of the attention that the "
                    "phrase gets, dark for none, white for all. One sheet for each image of the batch.",
                ),
                io.Image.Output(
                    display_name="loss_curve", tooltip="Loss of each highlight over the steps. 0 is a perfect fit."
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="The last map of each highlight at the size of the image, one after another, image by "
                    "image. Soft: 1 where the phrase gets all the attention.",
                ),
                io.String.Output(display_name="text", tooltip="Losses at the chosen steps as a table."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, record, image, steps="0%, 20%, 40%, last", opacity=0.65, cell_size=256) -> io.NodeOutput:
        opacity = checks.number(opacity, "opacity", 0, 1)
        cell_size = checks.whole(cell_size, "cell_size", 64, 1024)
        image = tensors.rgb(image)
        record.check(*image.shape[:3])
        chosen = choose_steps(record, steps)
        pictures = image.cpu().numpy()
        sheets = tensors.batch(
            [sheet.heat_sheet(record, i, p, chosen, cell_size, opacity) for i, p in enumerate(pictures)]
        )
        curves = tensors.batch([sheet.loss_curve(record, i) for i in range(record.batch)])
        shown = [*ui.PreviewImage(sheets, cls=cls).values, *ui.PreviewImage(curves, cls=cls).values]
        masks = record.final_maps(*image.shape[1:3]).flatten(0, 1)
        return io.NodeOutput(sheets, curves, masks, _losses(record, chosen), ui={"images": shown})


def _losses(recording: Recording, steps: list) -> str:
    """One line a step and image."""
    lines = []
    for step in steps:
        for number, losses in enumerate(step.losses.tolist()):
            image = f", image {number + 1}" if recording.batch > 1 else ""
            each = ", ".join(
                f"{recorded.highlight.phrase} {loss:.3f}" if loss == loss else f"{recorded.highlight.phrase} off"
                for recorded, loss in zip(recording.highlights, losses, strict=True)
            )
            lines.append(f"step {step.index} ({100 * step.percent:.0f} %){image}: {each}")
    return "\n".join(lines)


NODES = [LimelightAttentionRecord, LimelightAttentionPreview]
