"""How the host's own tokenizer reads a prompt: which token stands in which column of the cross-attention context.

Weights, escapes, embeddings and the split into chunks of 77 are therefore the host's. Column 77 * k + j of the context
is position j of chunk k; position 0 of every chunk is the start token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from ..errors import LimelightError
from .encoders import clip_makes_columns, read_spelled, spelled_encoder
from .spelling import SpelledText

BREAK = re.compile(r"\bBREAK\b")


@dataclass(frozen=True)
class Token:
    """A word piece or embedding vector of a prompt. id: in the vocabulary, or the vector. column: in the context.
    weight: as in "(blue bar:1.2)"."""

    id: int | torch.Tensor
    column: int
    starts_word: bool
    weight: float


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as the host tokenizes it.

    towers: per text encoder ("l", "g", "h") the tokens in reading order, without start, end and padding: one run, or
    one for each part where the prompt was split at BREAK. length: columns up to the end of the prompt's last chunk.
    spelled: what another kind of text encoder reads, whose columns come after those of CLIP, if CLIP has any.
    """

    text: str
    towers: dict[str, list[list[Token]]]
    length: int
    spelled: SpelledText | None = None

    @property
    def columns(self) -> list[int]:
        """Columns that hold the text in any encoder, ascending."""
        own = {token.column for runs in self.towers.values() for run in runs for token in run}
        return sorted(own | set(self.spelled.columns if self.spelled else ()))


def read_prompt(clip: Any, text: str, first_chunk: int = 0, split_at_break: bool = False) -> PromptTokens:
    """Tokenizes ``text`` with the tokenizer of ``clip`` (a host CLIP object for UNets, or one of `encoders.SPELLED`).

    first_chunk: chunk of the context at which the text starts (0 unless something was concatenated before it).
    split_at_break: the word BREAK (upper case) ends a part, and every part is encoded on its own, as some encoder nodes
    do it. The host itself reads it as the word "break".
    Raises LimelightError for other tokenizers and for a prompt that the host cannot read.
    """
    towers: dict[str, list[list[Token]]] = {}
    start = 0
    tokens = tokenize(clip, text, "text: the prompt", return_word_ids=True)
    name = spelled_encoder(clip, tokens)
    if name is not None:
        if first_chunk or split_at_break:
            raise LimelightError(
                "first_chunk, break_starts_chunk: these are for the chunks of CLIP, and this text encoder has none. "
                "Set first_chunk to 0 and break_starts_chunk to off."
            )
        if clip_makes_columns(tokens):
            towers = {key: [run] for key, run in _clip_runs(clip, tokens).items()}
            start = min((sum(map(len, tokens[key])) for key in towers), default=0)
        spelled, end = read_spelled(clip, tokens, name, start)
        return PromptTokens(text, towers, end, spelled)
    for part in _split_at_break(text) if split_at_break else [text]:
        tokens = _towers(clip, part, "text: the prompt")
        if not towers:
            start = first_chunk * len(next(iter(tokens.values()))[0])
        for name, chunks in tokens.items():
            towers.setdefault(name, []).append(_run(clip, name, chunks, start))
        start += min(sum(map(len, chunks)) for chunks in tokens.values())  # SDXL cuts to its shorter encoder
    return PromptTokens(text, towers, start)


def read_text(clip: Any, text: str, source: str) -> dict[str, list[Token]]:
    """The tokens of a text by itself, per text encoder. source: what the text is, for errors."""
    return {name: _run(clip, name, chunks, 0) for name, chunks in _towers(clip, text, source).items()}


def read_phrase(clip: Any, text: str, source: str) -> tuple[dict[str, list[Token]], SpelledText]:
    """As ``read_text``, for a ``clip`` with a spelled encoder: CLIP's reading, if it has columns, and its own."""
    tokens = tokenize(clip, text, source, return_word_ids=True)
    runs = _clip_runs(clip, tokens) if clip_makes_columns(tokens) else {}
    name = spelled_encoder(clip, tokens)
    assert name is not None
    return runs, read_spelled(clip, tokens, name)[0]


def _clip_runs(clip: Any, tokens: dict[str, Any]) -> dict[str, list[Token]]:
    """The runs of those CLIP encoders that are there, beside a spelled encoder."""
    present = [name for name in ("l", "g") if _encoder(clip, name) is not None]
    return {name: _run(clip, name, tokens[name], 0) for name in present}


def words_of(tokenizer: Any, run: list[Token]) -> list[str]:
    """The words of a run as the tokenizer sees them (lower case), without embeddings."""
    words: list[list[int]] = []
    for token in run:
        if token.starts_word:
            words.append([])
        if not torch.is_tensor(token.id):
            words[-1].append(token.id)
    return [tokenizer.tokenizer.decode(ids).strip() for ids in words if ids]


def quote(text: str, limit: int = 200) -> str:
    """A text of the user in an error message."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


def tower_tokenizer(clip: Any, name: str) -> Any:
    """The host's SDTokenizer of one text encoder; None where there is none."""
    tokenizer = clip.tokenizer
    return getattr(tokenizer, f"clip_{name}", None) or getattr(tokenizer, name, None)


def _encoder(clip: Any, name: str) -> Any:
    model = clip.cond_stage_model
    return getattr(model, f"clip_{name}", None) or getattr(model, name, None)


def tokenize(clip: Any, text: str, source: str = "text: the prompt", **options: Any) -> dict[str, Any]:
    """``clip.tokenize`` of the host, with all that can go wrong in it as a LimelightError."""
    if clip is None:
        raise LimelightError("clip: found nothing. This checkpoint holds no text encoder: load one with a CLIP loader.")
    if not isinstance(text, str):
        raise LimelightError(f"{source}: found {type(text).__name__}; expected text.")
    try:
        return clip.tokenize(text, **options)
    except Exception as error:  # whatever a broken embedding file or endless parentheses raise in the host
        raise LimelightError(
            f"{source} {quote(text)}: the host cannot tokenize it ({type(error).__name__}: {error}). Check its "
            "parentheses and embeddings."
        ) from error


def _towers(clip: Any, text: str, source: str) -> dict[str, list[list[tuple]]]:
    """-> per text encoder the chunks of (id or vector, weight, group); group 0 is start, end and padding."""
    tokens = tokenize(clip, text, source, return_word_ids=True)
    # the SDXL refiner tokenizes for two encoders and has one; Stable Diffusion 3 may be without T5
    towers = {name: chunks for name, chunks in tokens.items() if _encoder(clip, name) is not None}
    foreign = [name for name in towers if not _is_clip(tower_tokenizer(clip, name))]
    if foreign or not towers:
        raise LimelightError(
            f"clip: {type(clip.tokenizer).__name__} ({', '.join(tokens)}) is not supported yet. Highlights need the "
            "text encoders of SD 1.x, SD 2.x, SDXL, SD 3, Flux, Flux.2, Chroma, Lumina 2, Z-Image, Qwen-Image, Wan, "
            "LTX-Video or Cosmos Predict2."
        )
    return towers


def _is_clip(tokenizer: Any) -> bool:
    vocabulary = getattr(tokenizer, "inv_vocab", {})
    return (
        vocabulary.get(getattr(tokenizer, "start_token", None)) == "<|startoftext|>"
        and vocabulary.get(getattr(tokenizer, "end_token", None)) == "<|endoftext|>"
    )


def _run(clip: Any, name: str, chunks: list[list[tuple]], start: int) -> list[Token]:
    """The tokens of one text in one encoder, at their columns."""
    vocabulary = tower_tokenizer(clip, name).inv_vocab
    width = _encoder(clip, name).transformer.get_input_embeddings().weight.shape[-1]
    run: list[Token] = []
    last_group, inside_word = 0, False
    for chunk in chunks:
        column = start
        for token, weight, group in chunk:
            is_vector = torch.is_tensor(token)
            if is_vector and token.shape[-1] != width:
                continue  # made for another model: the host drops it, and what follows moves up
            if group:
                run.append(Token(token, column, not inside_word or group != last_group, weight))
                last_group = group
                piece = "" if is_vector else vocabulary.get(token, "")
                inside_word = not is_vector and not piece.endswith(("</w>", "|>"))
            column += 1
        start += len(chunk)
    return run


def _split_at_break(text: str) -> list[str]:
    cuts = [0, *(edge for match in BREAK.finditer(text) for edge in match.span()), len(text)]
    parts = [text[begin:end] for begin, end in list(pairwise(cuts))[::2]]
    depth = 0
    for part in parts[:-1]:
        plain = re.sub(r"\\[()]", "", part)
        depth += plain.count("(") - plain.count(")")
        if depth:
            raise LimelightError(
                f"text: BREAK stands inside parentheses in {quote(text)}. Close them before it, and weight each part."
            )
    return parts
