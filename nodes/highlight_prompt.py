"""Nodes that bind highlights to the words of a prompt."""

from __future__ import annotations

from comfy_api.latest import io
from node_helpers import conditioning_set_values

from ..guidance.errors import LimelightError
from ..guidance.prompts.binding import KEY, bind_to, merge_bound
from ..guidance.prompts.phrases import swap_in_phrases
from ..guidance.prompts.tokens import BREAK, PromptTokens, read_prompt, tokenize
from ..guidance.regions.document import parse
from .schema import Highlights, advanced


class LimelightHighlightPrompt(io.ComfyNode):
    """CLIP Text Encode that also tells the sampler where the highlighted phrases go."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightHighlightPrompt",
            display_name="Highlight Prompt",
            category="limelight/highlight",
            description="Encodes a prompt as CLIP Text Encode does, and binds highlights to its words. Highlight "
            "Guidance on the model reads them. Without highlights the result is that of CLIP Text Encode.",
            inputs=[
                io.Clip.Input(
                    "clip", tooltip="The text encoder: SD 1.x, 2.x, XL, 3, Flux, Chroma, Z-Image, Qwen-Image, Wan..."
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt. It must contain the phrase of every highlight, as whole words.",
                ),
                Highlights.Input("highlights", tooltip="Which phrase goes where. An empty document changes nothing."),
                advanced(
                    io.Boolean.Input(
                        "phrases_alone",
                        default=False,
                        optional=True,
                        tooltip="Encode each highlighted phrase by itself and put it in its place in the prompt, so "
                        "that it does not take on colours or shapes of the other words. It also loses what they tell "
                        "about it.",
                    )
                ),
                _last_token_only(),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="The encoded prompt with its highlights, for a sampler."
                )
            ],
        )

    @classmethod
    def execute(cls, clip, text, highlights, phrases_alone=False, last_token_only=False) -> io.NodeOutput:
        document = parse(highlights)
        tokens = tokenize(clip, text)
        if not document.highlights:  # any text encoder will do
            return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens))
        # before the encoding, so that a mistake shows at once
        prompt = read_prompt(clip, text)
        bound = bind_to(clip, prompt, document, last_token_only)
        if phrases_alone and prompt.spelled is not None:
            raise LimelightError(
                "phrases_alone: found on; this text encoder reads a phrase only together with its prompt. Turn it off; "
                "it is for the CLIP text encoders of SD 1.x, SD 2.x and SDXL."
            )
        conditioning = clip.encode_from_tokens_scheduled(tokens)
        if prompt.spelled is not None:
            _check_length(conditioning, prompt)
        if phrases_alone:
            conditioning = swap_in_phrases(clip, prompt, bound, conditioning)
        return io.NodeOutput(conditioning_set_values(conditioning, {KEY: bound}))


class LimelightHighlightBind(io.ComfyNode):
    """Binds highlights to a conditioning that another node encoded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightHighlightBind",
            display_name="Highlight Bind",
            category="limelight/highlight",
            description="Binds highlights to a conditioning that another node encoded from the same text. Chain two to "
            "bind both texts of a Conditioning (Concat).",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The encoded prompt. Every entry gets the highlights."),
                io.Clip.Input("clip", tooltip="The text encoder that made the conditioning."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The text that the conditioning was made from, exactly as it was encoded.",
                ),
                Highlights.Input("highlights", tooltip="Which phrase goes where. An empty document changes nothing."),
                advanced(
                    io.Int.Input(
                        "first_chunk",
                        default=0,
                        min=0,
                        max=1000,
                        optional=True,
                        tooltip="How many chunks of 77 tokens of other text come before this text in the conditioning. "
                        "0 unless Conditioning (Concat) put it behind another prompt.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "break_starts_chunk",
                        default=False,
                        optional=True,
                        tooltip="On for a node that encodes the parts between BREAK by themselves. Off for ComfyUI's "
                        "own nodes, for which BREAK is a word like any other.",
                    )
                ),
                _last_token_only(),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="The same conditioning with the highlights added to those that it has.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, conditioning, clip, text, highlights, first_chunk=0, break_starts_chunk=False, last_token_only=False
    ) -> io.NodeOutput:
        document = parse(highlights)
        if not document.highlights:
            return io.NodeOutput(conditioning)
        prompt = read_prompt(clip, text, first_chunk, break_starts_chunk)
        bound = bind_to(clip, prompt, document, last_token_only)
        result = []
        for tensor, options in conditioning:
            if tensor.shape[1] != prompt.length:
                if prompt.spelled is not None:
                    raise LimelightError(
                        f"conditioning: found {tensor.shape[1]} tokens; the text by itself takes {prompt.length}. Give "
                        "the text and the clip that it was encoded with, and bind before Conditioning (Concat). A "
                        "prompt with pictures (Qwen-Image Edit) cannot be bound: encode it with Highlight Prompt, and "
                        "add the pictures with ReferenceLatent."
                    )
                other = read_prompt(clip, text, first_chunk, not break_starts_chunk) if BREAK.search(text) else prompt
                _check_columns(tensor.shape[1], prompt, other, first_chunk)
            result += conditioning_set_values([[tensor, options]], {KEY: merge_bound(options.get(KEY), bound)})
        return io.NodeOutput(result)


def _check_length(conditioning: list, prompt: PromptTokens) -> None:
    """Raises LimelightError unless the text encoder made as many columns as its tokens say."""
    for tensor, _ in conditioning:
        if tensor.shape[1] != prompt.length:
            name = "CLIP" if prompt.spelled is None else prompt.spelled.name
            raise LimelightError(
                f"clip: the text encoder {name} made {tensor.shape[1]} columns of {prompt.length} "
                "tokens, so that phrases cannot be found in them. Another node has changed it; connect it as loaded."
            )


def _check_columns(columns: int, prompt: PromptTokens, other: PromptTokens, first_chunk: int) -> None:
    """Raises LimelightError unless so many columns can hold the prompt. ``other``: with BREAK read the other way."""
    if columns == other.length:
        raise LimelightError(
            f"break_starts_chunk: the conditioning has {columns} tokens, and the text takes {prompt.length} with this "
            f"setting, {other.length} with the other. Switch it, or take BREAK out of the text."
        )
    if columns < prompt.length:
        raise LimelightError(
            f"conditioning: found {columns} tokens; the text takes {prompt.length} (first_chunk is {first_chunk}). "
            "Give the text and the clip that the conditioning was encoded with."
        )


def _last_token_only() -> io.Boolean.Input:
    """The input that both nodes have."""
    return advanced(
        io.Boolean.Input(
            "last_token_only",
            default=False,
            optional=True,
            tooltip="Let a highlight act on the last token of its phrase only. Language models (Z-Image, Qwen-Image, "
            "Lumina 2, Flux.2) read from left to right, so that the last token alone knows the whole phrase. Not tried "
            "on trained models yet.",
        )
    )


NODES = [LimelightHighlightPrompt, LimelightHighlightBind]
