"""The text side of DenseDiffusion: a highlighted phrase is encoded by itself, so that it does not take on the colours
and shapes of the other words of the prompt."""

from __future__ import annotations

from typing import Any

from ..errors import LimelightError
from .tokens import PromptTokens, quote, tokenize


def swap_in_phrases(clip: Any, prompt: PromptTokens, bound: dict, conditioning: list) -> list:
    """A conditioning in which the tokens of every highlighted phrase hold the embeddings of the phrase encoded alone.

    conditioning: what ``clip`` made of ``prompt``; it is not changed. bound: the highlights bound to that prompt. The
    phrase keeps its place, its weights and its embedding vectors; pooled embeddings stay those of the whole prompt.
    Raises LimelightError for a phrase that is too long to be encoded in one piece.
    Source: Kim et al. 2023 (DenseDiffusion), the authors' code for Stable Diffusion 1.5.
    """
    swapped = [[context.clone(), options] for context, options in conditioning]
    for item in bound["highlights"]:
        if item["strength"] > 0:
            alone = clip.encode_from_tokens_scheduled(phrase_tokens(clip, prompt, item["phrase"], item["tokens"]))
            for (context, _), (phrase, _) in zip(swapped, alone, strict=True):
                context[:, item["tokens"]] = phrase[:, 1 : 1 + len(item["tokens"])].to(context)
    return swapped


def phrase_tokens(clip: Any, prompt: PromptTokens, phrase: str, columns: list[int]) -> dict[str, list]:
    """The tokens in ``columns`` of a prompt as a prompt of their own, as the host's encoder takes them."""
    tokens = tokenize(clip, "")
    for name, runs in prompt.towers.items():
        by_column = {token.column: (token.id, token.weight) for run in runs for token in run}
        (frame, *_) = tokens[name]  # start, end, padding
        room = len(frame) - 2
        if len(columns) > room:
            raise LimelightError(
                f"phrases_alone: the highlight phrase {quote(phrase)} has {len(columns)} tokens; expected at most "
                f"{room}, for that is what the text encoder takes in one piece. Shorten the phrase, or turn "
                "phrases_alone off."
            )
        own = [by_column[column] for column in columns]
        tokens[name] = [[frame[0], *own, *frame[1 : len(frame) - len(own)]]]
    return tokens
