"""Which text encoders make a conditioning, and where each puts its tokens: those of the host's diffusion transformers.

| tokens of the host's tokenizer | model | columns of the conditioning |
|---|---|---|
| l, g, t5xxl | Stable Diffusion 3 | chunks of CLIP, then T5 |
| l, t5xxl | Flux | T5; CLIP gives a pooled vector only |
| t5xxl | Chroma, LTX-Video, Cosmos Predict2 | T5 |
| umt5xxl | Wan | UMT5 |
| qwen3_4b | Z-Image | the template and the text in it |
| qwen25_7b | Qwen-Image | the same, without the first part of the template |
| gemma2_2b, gemma3_4b | Lumina 2 and its kin | start token and text |
| mistral3_24b | Flux.2 | the template and the text in it |

Read off comfy/text_encoders/{sd3_clip,flux,pixart_t5,lt,cosmos,wan,z_image,qwen_image,lumina2}.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import LimelightError
from .spelling import Piece, SpelledText, cut, speller

SPELLED = {
    frozenset({"l", "g", "t5xxl"}): "t5xxl",
    frozenset({"l", "t5xxl"}): "t5xxl",
    **{
        frozenset({name}): name
        for name in ("t5xxl", "umt5xxl", "qwen3_4b", "qwen3_8b", "qwen25_7b", "gemma2_2b", "gemma3_4b", "mistral3_24b")
    },
}
"""By the names of what the tokenizer returns: the encoder that is read by its spelling."""
CAUSAL = {"qwen3_4b", "qwen3_8b", "qwen25_7b", "gemma2_2b", "gemma3_4b", "mistral3_24b"}
"""Those that read from left to right only: a token knows what comes before it and nothing of what follows."""
IM_START, USER, NEWLINE = 151644, 872, 198  # ids of Qwen's vocabulary


def spelled_encoder(clip: Any, tokens: Mapping[str, Any]) -> str | None:
    """The encoder of these tokens that is read by its spelling; None: there is none, only CLIP."""
    name = SPELLED.get(frozenset(tokens))
    # Stable Diffusion 3 works without T5
    return name if name and _part(clip.cond_stage_model, name, clip) is not None else None


def clip_makes_columns(tokens: Mapping[str, Any]) -> bool:
    """Whether the CLIP encoders beside a spelled one have columns of their own."""
    return {"l", "g"} <= set(tokens)


def read_spelled(clip: Any, tokens: Mapping[str, Any], name: str, start: int = 0) -> tuple[SpelledText, int]:
    """What an encoder reads. tokens: by encoder, the host's chunks of (id or vector, weight, group). start: its first
    column. -> the user's text in it, and the column behind its last one."""
    tokenizer = _part(clip.tokenizer, name)
    spell, pieces = speller(tokenizer.inv_vocab), []
    sequence = [entry for chunk in tokens[name] for entry in chunk]
    column = start - (_cropped(sequence) if name == "qwen25_7b" else 0)
    width = _width(clip, name)
    for token, weight, group in sequence:
        if not isinstance(token, int) and not torch.is_tensor(token):
            raise LimelightError(
                "text: the prompt holds a picture for the text encoder, which takes an unknown number of tokens. "
                "Highlights need a prompt of text alone."
            )
        if torch.is_tensor(token) and width not in (None, token.shape[-1]):
            continue  # made for another model: the host drops it, and what follows moves up
        if group:  # 0: start, end and padding
            pieces.append(Piece(column, b"" if torch.is_tensor(token) else spell(token), group, weight))
        column += 1
    return SpelledText(name, cut(pieces, getattr(clip.tokenizer, "llama_template", None))), column


def _cropped(sequence: list[tuple]) -> int:
    """How many positions Qwen-Image leaves out: up to the second message of its template, and the word "user"."""
    ids = [token if isinstance(token, int) else -1 for token, *_ in sequence]
    begins = [place for place, token in enumerate(ids) if token == IM_START][:2]
    if not begins:
        return len(ids) - 1  # the host keeps the last one alone
    begin = begins[-1]
    return begin + 3 if len(ids) > begin + 3 and ids[begin + 1 : begin + 3] == [USER, NEWLINE] else begin


def _width(clip: Any, name: str) -> int | None:
    transformer = getattr(_part(clip.cond_stage_model, name), "transformer", None)
    return None if transformer is None else transformer.get_input_embeddings().weight.shape[-1]


def _part(whole: Any, name: str, missing: Any = None) -> Any:
    """The tokenizer or network of one encoder."""
    return getattr(whole, name, getattr(whole, f"clip_{name}", missing))
