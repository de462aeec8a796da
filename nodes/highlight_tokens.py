"""The node that shows which tokens a phrase has."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..guidance.checks import whole
from ..guidance.prompts.preview import token_preview


class LimelightTokenPreview(io.ComfyNode):
    """CLIP + text + phrase -> a table of tokens with the phrase's own marked."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightTokenPreview",
            display_name="Token Preview",
            category="limelight/highlight",
            description="Shows how the text encoder cuts a prompt into tokens, and which of them a phrase has: a "
            "highlight acts on those. Nothing is encoded.",
            is_output_node=True,
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model that the prompt is for."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The prompt."),
                io.String.Input(
                    "phrase",
                    default="",
                    tooltip="Whole words of the prompt, as you would highlight them. Empty: only the tokens are shown.",
                ),
                io.Int.Input(
                    "occurrence",
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="Which mention of the phrase, counted from 1, as in a highlight.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="tokens",
                    tooltip="A line for each token: its column in the conditioning, * for the phrase's own, its text.",
                )
            ],
        )

    @classmethod
    def execute(cls, clip, text, phrase="", occurrence=1) -> io.NodeOutput:
        table, _ = token_preview(clip, text, phrase, whole(occurrence, "occurrence", 1, 1000))
        return io.NodeOutput(table, ui=ui.PreviewText(table))


NODES = [LimelightTokenPreview]
