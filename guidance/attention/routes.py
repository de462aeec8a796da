"""Hard regions without a mask: image tokens that see the same words attend together, over a key list of their own.

A key that counts n times in a softmax is a key with log n added to its logit, and one that counts 0 times is one with
minus infinity. So attention under a mask of log(counts) equals, exactly, one call without a mask for each set of
queries with equal counts, whose keys are repeated or left out. Any kernel can compute that, flash and sage among them.
The work is that of the whole call; each call copies its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Group:
    """Image tokens that see the words alike. cells: their numbers, (m,). columns: of the context, each as often as it
    counts, (M,)."""

    cells: torch.Tensor
    columns: torch.Tensor


def weights_of(counts: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The mask: counts (..., N, n) of n phrases, own (n, T) their columns -> what to add to the logits, (..., N, T)."""
    return _spread(counts, own).log()


def groups_of(counts: torch.Tensor, own: torch.Tensor) -> list[Group]:
    """counts: (N, n) whole numbers >= 0, of n phrases for N image tokens. own: (n, T), 1 at the columns of a phrase; a
    column belongs to one at most. -> the groups; tokens for which everything counts once are in none."""
    each, which = counts.unique(dim=0, return_inverse=True)
    columns = torch.arange(own.shape[1], device=own.device)
    return [
        Group((which == number).nonzero()[:, 0], columns.repeat_interleave(_spread(row, own).long()))
        for number, row in enumerate(each)
        if not (row == 1).all()
    ]


def attend(
    run: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, axis: int, groups: Sequence[Group], sequence
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """-> (numbers of queries, their output) one after another, all queries once.

    run(q, k, v): attention without a mask. axis: of tokens in q, k and v. sequence: where text and image are.
    """
    text, image = sequence.text, sequence.image
    free = torch.ones(q.shape[axis], dtype=torch.bool, device=q.device)
    for group in groups:
        free[image.start + group.cells] = False
    rest = free.nonzero()[:, 0]
    if len(rest):
        yield rest, run(q.index_select(axis, rest), k, v)
    places = torch.arange(k.shape[axis], device=k.device)
    for group in groups:
        keys = torch.cat([places[: text.start], text.start + group.columns, places[text.stop :]])
        queries = image.start + group.cells
        yield queries, run(q.index_select(axis, queries), k.index_select(axis, keys), v.index_select(axis, keys))


def assembled(pieces: Iterable[tuple[slice | torch.Tensor, torch.Tensor]], length: int, axis: int) -> torch.Tensor:
    """Pieces of an output, each with its rows along the axis, in one tensor; without a gradient there is only one piece
    at a time beside it."""
    out, rows, kept = None, [], []
    for place, piece in pieces:
        if piece.requires_grad:
            rows.append(torch.arange(length, device=piece.device)[place])
            kept.append(piece)
            continue
        if out is None:
            out = piece.new_empty(*piece.shape[:axis], length, *piece.shape[axis + 1 :])
        if isinstance(place, slice):
            out.narrow(axis, place.start, place.stop - place.start).copy_(piece)
        else:
            out.index_copy_(axis, place, piece)
    if kept:
        return torch.cat(kept, axis).index_select(axis, torch.cat(rows).argsort())
    return out


def _spread(counts: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """(..., n) of phrases -> (..., T) of columns; those of no phrase count once."""
    return counts @ own + (1 - own.sum(0))
