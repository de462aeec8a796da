"""Tokens of a prompt in text, with those of a phrase marked."""

from __future__ import annotations

from typing import Any

from .binding import find_in
from .tokens import PromptTokens, read_prompt, tower_tokenizer, words_of


def token_preview(clip: Any, text: str, phrase: str, occurrence: int = 1) -> tuple[str, list[int]]:
    """-> a table with a line for each token of the prompt, and the columns of the phrase ([] where it is empty).

    A line has the column in the conditioning, an asterisk for the phrase's own, and what the token stands for. Raises
    LimelightError where the phrase is not in the prompt.
    """
    prompt = read_prompt(clip, text)
    columns = list(find_in(clip, prompt, phrase, occurrence)) if phrase.strip() else []
    lines = [f"{len(prompt.columns)} tokens of the prompt in {prompt.length} columns of the conditioning"]
    if columns:
        lines.append(f"{phrase!r}: columns {', '.join(map(str, columns))}")
    for name, own in _readings(clip, prompt):
        lines += ["", f"{name}:"]
        lines += [f"{'*' if column in columns else ' '} {column:5d}  {piece}" for column, piece in own]
    return "\n".join(lines), columns


def _readings(clip: Any, prompt: PromptTokens) -> list[tuple[str, list[tuple[int, str]]]]:
    """By text encoder: (column, what it stands for) of every token."""
    found = []
    for name, runs in prompt.towers.items():
        tokenizer = tower_tokenizer(clip, name)
        own = [(token.column, "".join(words_of(tokenizer, [token])) or "embedding") for run in runs for token in run]
        found.append((f"clip_{name}", own))
    if prompt.spelled is not None:
        pieces = prompt.spelled.pieces
        own = [
            (piece.column, repr(piece.spelling.decode(errors="replace")) if piece.spelling else "embedding")
            for piece in pieces
        ]
        found.append((prompt.spelled.name, own))
    return found
