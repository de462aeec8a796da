"""Phrases in the tokens of text encoders other than CLIP, by what the tokens spell.

Such a tokenizer cuts a word in one way at the beginning of a text and in another inside it, so that runs of equal ids
say little. Every token does stand for certain bytes, though; a phrase is looked for in their stream, letter by letter,
inside the part that the user wrote (language models get it inside a template). What normalisation the tokenizer does,
it does to the phrase as well, because the phrase is read by the same tokenizer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

UNKNOWN = "\ufffd"
_LOST = b"\xff"  # no text has it


@dataclass(frozen=True)
class Piece:
    """A token. spelling: the bytes it stands for; empty for an embedding. group: the host's number of the weighted part
    of the prompt that it belongs to. column: in the conditioning."""

    column: int
    spelling: bytes
    group: int
    weight: float


@dataclass(frozen=True)
class Letter:
    """A character that is no white space. pieces: the columns of its tokens. gap: whether white space comes before it;
    None: that cannot be told."""

    text: str
    columns: tuple[int, ...]
    gap: bool | None


class SpelledText:
    """What one text encoder reads in a text. name: of the tokenizer, for errors. pieces: the user's own, in order."""

    def __init__(self, name: str, pieces: Sequence[Piece]) -> None:
        self.name, self.pieces = name, list(pieces)
        self.letters = list(_letters(self.pieces))

    @property
    def columns(self) -> list[int]:
        """Columns of the user's text, ascending."""
        return [piece.column for piece in self.pieces]

    @property
    def unknown(self) -> bool:
        """Whether some of the text is not in the vocabulary."""
        return any(letter.text == UNKNOWN for letter in self.letters)

    def occurrences(self, phrase: SpelledText) -> list[tuple[int, ...]]:
        """The columns of every occurrence of a phrase that the same encoder has read, without overlaps. It begins and
        ends where a word does; case does not count."""
        wanted, found, begin = phrase.letters, [], 0
        while wanted and not phrase.unknown and begin + len(wanted) <= len(self.letters):
            end = begin + len(wanted)
            here = self.letters[begin:end]
            if _same(here, wanted) and self._parted(begin) and self._parted(end):
                found.append(tuple(sorted({column for letter in here for column in letter.columns})))
                begin = end
            else:
                begin += 1
        return found

    def words(self) -> list[str]:
        """The text in words, as far as it can be read."""
        out: list[str] = []
        for number, letter in enumerate(self.letters):
            if not number or letter.gap or (self._parted(number) and letter.text.isalnum()):
                out.append("")
            out[-1] += letter.text
        return out

    def _parted(self, number: int) -> bool:
        """Whether a word may end before this letter and another begin with it."""
        if number in (0, len(self.letters)):
            return True
        before, letter = self.letters[number - 1], self.letters[number]
        return letter.gap is not False or not _joined(before.text, letter.text)


def cut(pieces: Sequence[Piece], template: str | None) -> list[Piece]:
    """The pieces with something of the user's text, where the host has put it into a template, "before{}after"."""
    stream = b"".join(piece.spelling for piece in pieces)
    before, _, after = (template or "").partition("{}")
    head, tail = before.encode(), after.encode()
    if not (stream.startswith(head) and stream.endswith(tail) and len(head) + len(tail) <= len(stream)):
        return list(pieces)  # a text that brings its own template
    begin, end, at, own = len(head), len(stream) - len(tail), 0, []
    for piece in pieces:
        stop = at + len(piece.spelling)
        if (at < end and stop > begin) or (not piece.spelling and begin <= at <= end):
            # a token may hold the end of the template, too
            own.append(Piece(piece.column, piece.spelling[max(begin - at, 0) : end - at], piece.group, piece.weight))
        at = stop
    return own


def speller(vocabulary: dict[int, str]) -> Callable[[int], bytes]:
    """-> function (id) -> the bytes that a token stands for. vocabulary: of a byte-level or a sentencepiece tokenizer,
    by id."""
    first = next((piece[0] for piece in vocabulary.values() if piece[:1] in ("Ġ", "▁")), "▁")
    return lambda token: (_byte_level if first == "Ġ" else _sentence_piece)(vocabulary.get(token, ""))


def _byte_level(piece: str) -> bytes:
    table = _byte_table()
    return b"".join(bytes([table[c]]) if c in table else c.encode() for c in piece)


def _sentence_piece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x"):
        return bytes([int(piece[3:5], 16)])
    return _LOST if piece in ("<unk>", "") else piece.replace("▁", " ").encode()


@lru_cache(maxsize=1)
def _byte_table() -> dict[str, int]:
    """The characters by which byte-level vocabularies write bytes: printable ones as they are, others from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _letters(pieces: Sequence[Piece]) -> Iterator[Letter]:
    stream = b"".join(piece.spelling for piece in pieces)
    owner = [piece for piece in pieces for _ in piece.spelling]
    # between weighted parts, and around embeddings, tokenizers add white space of their own
    loose, at = set(), 0
    for before, piece in pairwise(pieces):
        at += len(before.spelling)
        if before.group != piece.group or not piece.spelling or not before.spelling:
            loose.add(at)
    gap: bool | None = True
    at = 0
    while at < len(stream):
        size = _length(stream, at)
        text = stream[at : at + size].decode(errors="replace")
        if at in loose:
            gap = None
        if text.isspace():
            gap = gap if gap is None else True
        else:
            columns = tuple(dict.fromkeys(piece.column for piece in owner[at : at + size]))
            yield Letter(text.lower(), columns, gap)
            gap = False
        at += size


def _length(stream: bytes, at: int) -> int:
    """Bytes of the character there; 1 where there is none."""
    for size in range(1, 5):
        try:
            stream[at : at + size].decode()
        except UnicodeDecodeError:
            continue
        return size
    return 1


def _same(here: Sequence[Letter], wanted: Sequence[Letter]) -> bool:
    if any(a.text != b.text for a, b in zip(here, wanted, strict=True)):
        return False
    return all(
        a.gap == b.gap or None in (a.gap, b.gap) or not _joined(before.text, a.text)
        for before, a, b in zip(here, here[1:], wanted[1:], strict=False)
    )


def _joined(a: str, b: str) -> bool:
    """Whether two characters side by side are in one word: letters of scripts that put spaces between words."""
    return a.isalnum() and b.isalnum() and not any(unicodedata.east_asian_width(c[-1]) in "WF" for c in (a, b))
