"""Phrase to tokens: which columns of the cross-attention context belong to the phrase of a highlight.

In CLIP's tokens a phrase is found as a run of equal ids (weights are ignored) that starts where a word starts. CLIP's
byte pairs mark the ends of words, so a match also ends where a word ends: "art" is not found in "party". In the tokens
of other encoders it is found by what they spell (see `spelling`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

import torch

from ..errors import LimelightError
from ..regions.document import Document, parse
from .encoders import CAUSAL
from .spelling import SpelledText
from .tokens import PromptTokens, Token, quote, read_phrase, read_prompt, read_text, tower_tokenizer, words_of

KEY = "limelight_highlights"
"""Key of the bound highlights in the options of a CONDITIONING entry."""


def find_phrase(clip: Any, text: str, phrase: str, occurrence: int = 1) -> tuple[int, ...]:
    """Columns of the ``occurrence``-th (from 1) ``phrase`` in the context that ``clip`` makes of ``text``.

    Raises LimelightError when it is not there: with what is there, and near words.
    """
    return find_in(clip, read_prompt(clip, text), phrase, occurrence)


def find_in(clip: Any, prompt: PromptTokens, phrase: str, occurrence: int = 1) -> tuple[int, ...]:
    """As ``find_phrase``, in a prompt that is already read."""
    if prompt.spelled is not None:
        return _find_spelled(clip, prompt, prompt.spelled, phrase, occurrence)
    source = "highlight phrase"
    readings = [read_text(clip, spelling, source) for spelling in _spellings(phrase)]
    if not any(map(_size, readings)):
        raise LimelightError(
            f"{source} {quote(phrase)}: it has no words, or only an embedding that this text encoder "
            "does not have. Write words that the prompt has."
        )
    found: dict[str, list[tuple[int, ...]]] = {}
    for reading in readings:
        found = {name: _occurrences(runs, reading[name]) for name, runs in prompt.towers.items()}
        if any(found.values()):
            break
    counts = [len(places) for places in found.values()]
    if not max(counts):
        raise LimelightError(_missing(clip, prompt, phrase, max(readings, key=_size)))
    if occurrence > max(counts):
        raise LimelightError(_too_few(f"{source} {quote(phrase)}", prompt, occurrence, max(counts)))
    places = {towers[occurrence - 1] for towers in found.values() if len(towers) >= occurrence}
    if occurrence > min(counts) or len(places) > 1:
        raise LimelightError(
            f"{source} {quote(phrase)}: the text encoders ({', '.join(found)}) have it at different positions of the "
            f"prompt {quote(prompt.text)}. An embedding there fits only one of them: remove it, or use one made for "
            "this model."
        )
    return places.pop()


def _find_spelled(clip: Any, prompt: PromptTokens, text: SpelledText, phrase: str, occurrence: int) -> tuple[int, ...]:
    """As ``find_in``, where another encoder than CLIP reads the prompt; CLIP's own columns, if any, come first."""
    source = f"highlight phrase {quote(phrase)}"
    runs, read = read_phrase(clip, phrase, "highlight phrase")
    if not read.letters and not any(runs.values()):
        raise LimelightError(f"{source}: it has no words. Write words that the prompt has.")
    readings = [text.occurrences(read), *(_occurrences(prompt.towers[name], run) for name, run in runs.items())]
    if not any(readings):
        if read.unknown:
            raise LimelightError(
                f"{source}: the text encoder {text.name} does not have all of its characters, so that the model cannot "
                "read it. Write the prompt and the phrase in words that it knows."
            )
        near = _near([text.words()], read.words())
        raise LimelightError(
            f"{source}: not in the prompt {quote(prompt.text)} as the text encoder {text.name} reads it.{near} Use "
            "whole words, in the order and spelling of the prompt."
        )
    most = max(map(len, readings))
    if occurrence > most:
        raise LimelightError(_too_few(source, prompt, occurrence, most))
    # CLIP may cut at other places, or not have a word: what each encoder has is enough
    return tuple(sorted({column for each in readings if len(each) >= occurrence for column in each[occurrence - 1]}))


def bind(clip: Any, text: str, document: dict) -> dict:
    """Binds a HIGHLIGHTS document to the prompt ``text``.

    -> {"version": 1, "text_tokens": [column, ...], "highlights": [{"phrase", "tokens": [column, ...], "strength",
    "instances"[, "color"]}, ...]}, the value for ``KEY``. Columns are those of the context that ``clip`` makes of
    ``text``. Raises LimelightError for an empty prompt, a phrase or occurrence that is not in it, and for two
    highlights that share a token.
    """
    return bind_to(clip, read_prompt(clip, text), document)


def bind_to(clip: Any, prompt: PromptTokens, document: dict | Document, last_token_only: bool = False) -> dict:
    """As ``bind``, for a prompt that is already read.

    last_token_only: in a text encoder that reads from left to right, a phrase's last token alone knows the whole
    phrase; only that one is bound, and the phrase's others count as no words at all. Raises LimelightError for other
    text encoders.
    """
    highlights = parse(document).highlights
    columns = prompt.columns
    if last_token_only and (prompt.spelled is None or prompt.spelled.name not in CAUSAL):
        name = "CLIP" if prompt.spelled is None else prompt.spelled.name
        raise LimelightError(
            f"last_token_only: found on; it is for language models as text encoders (Z-Image, Qwen-Image, Lumina 2, "
            f"Flux.2), in which the last token of a phrase holds its meaning, and this one is {name}. Turn it off."
        )
    if highlights and not columns:
        raise LimelightError(
            f"text: the prompt {quote(prompt.text)} has no words, but there is a highlight for "
            f"{quote(highlights[0].phrase)}. Write a prompt that contains the phrase."
        )
    if len(highlights) > len(columns):
        raise LimelightError(
            f"highlights: found {len(highlights)} highlights for the prompt {quote(prompt.text)} of {len(columns)} "
            "tokens; each highlight needs words of its own. Remove some."
        )
    bound: list[dict[str, Any]] = [
        {
            "phrase": highlight.phrase,
            "tokens": list(find_in(clip, prompt, highlight.phrase, highlight.occurrence)),
            "strength": highlight.strength,
            "instances": [instance.to_dict() for instance in highlight.instances],
            **({"color": highlight.color} if highlight.color else {}),
        }
        for highlight in highlights
    ]
    check_disjoint(bound)
    if last_token_only:
        others = {column for item in bound for column in item["tokens"][:-1]}
        columns = [column for column in columns if column not in others]
        bound = [{**item, "tokens": item["tokens"][-1:]} for item in bound]
    return {"version": 1, "text_tokens": columns, "highlights": bound}


def merge_bound(first: dict | None, second: dict) -> dict:
    """Both bound documents in one new one: two texts of one context, or more highlights for the same text.

    Raises LimelightError when two highlights share a token.
    """
    if first is None:
        return second
    highlights = [*first["highlights"], *second["highlights"]]
    check_disjoint(highlights)
    return {
        "version": 1,
        "text_tokens": sorted({*first["text_tokens"], *second["text_tokens"]}),
        "highlights": highlights,
    }


def check_disjoint(highlights: list[dict]) -> None:
    """Raises LimelightError when two bound highlights share a token."""
    owner: dict[int, str] = {}
    for highlight in highlights:
        for column in highlight["tokens"]:
            if column in owner:
                raise LimelightError(
                    f"highlights: {owner[column]!r} and {highlight['phrase']!r} share words of the prompt (column "
                    f"{column}). Put the shapes into one highlight, or set 'occurrence' to another mention."
                )
            owner[column] = highlight["phrase"]


def _occurrences(runs: list[list[Token]], phrase: list[Token]) -> list[tuple[int, ...]]:
    """Columns of every occurrence of ``phrase``, in reading order, without overlaps."""
    found = []
    for run in runs:
        begin = 0
        while phrase and begin + len(phrase) <= len(run):
            here = run[begin : begin + len(phrase)]
            if here[0].starts_word and all(map(_same, here, phrase)):
                found.append(tuple(token.column for token in here))
                begin += len(phrase)
            else:
                begin += 1
    return found


def _same(a: Token, b: Token) -> bool:
    if torch.is_tensor(a.id) or torch.is_tensor(b.id):
        return torch.is_tensor(a.id) and torch.is_tensor(b.id) and torch.equal(a.id, b.id)
    return a.id == b.id


def _spellings(phrase: str) -> Iterator[str]:
    """The phrase as prompt syntax, then with its parentheses taken literally."""
    yield phrase
    if "(" in phrase or ")" in phrase:
        yield re.sub(r"(?<!\\)([()])", r"\\\1", phrase)


def _size(reading: dict[str, list[Token]]) -> int:
    return max(map(len, reading.values()))


def _too_few(source: str, prompt: PromptTokens, occurrence: int, count: int) -> str:
    times = "once" if count == 1 else f"{count} times"
    return (
        f"{source}: occurrence {occurrence} was asked for, but the prompt {quote(prompt.text)} has "
        f"it {times}. Occurrences count from 1."
    )


def _missing(clip: Any, prompt: PromptTokens, phrase: str, reading: dict[str, list[Token]]) -> str:
    name, run = next(iter(reading.items()))
    message = (
        f"highlight phrase {quote(phrase)}: not in the prompt {quote(prompt.text)} as the text encoder clip_{name} "
        "reads it."
    )
    if _size(reading) > len(prompt.columns):
        message += f" Tokens: {_size(reading)} in the phrase, {len(prompt.columns)} in the prompt."
    tokenizer = tower_tokenizer(clip, name)
    message += _near([words_of(tokenizer, part) for part in prompt.towers[name]], words_of(tokenizer, run))
    return message + " Use whole words, in the order and spelling of the prompt."


def _near(texts: list[list[str]], words: list[str]) -> str:
    """ " Did you mean ...?" with what is like the words in texts, or what is nearest; nothing where there is none."""
    near = []
    for there in texts:
        for length in (len(words), len(words) + 1, max(len(words) - 1, 1)):
            near += [" ".join(there[begin : begin + length]) for begin in range(len(there) - length + 1)]
    wanted, near = " ".join(words), list(dict.fromkeys(near))
    matches = difflib.get_close_matches(wanted, near, n=3)
    if matches:
        return f" Did you mean {' or '.join(map(repr, matches))}?"
    nearest = difflib.get_close_matches(wanted, near, n=1, cutoff=0.0)
    return f" The nearest there is {quote(nearest[0])}." if nearest else ""
