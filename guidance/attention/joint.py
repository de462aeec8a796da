"""One place for all that happens to the attention in which a transformer's image and text meet: who watches it, who
biases it.

A forward of the model gets its own copy of the transformer options with a `JointAttention` in the host's one slot for
an attention override. Whatever stood there before goes on serving the calls that nobody biases, and the pieces of those
that are biased without a mask (`routes`); it never gets a mask, because fast kernels (sage, flash) may drop one without
a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..errors import LimelightError
from .routes import Group, assembled, attend

if TYPE_CHECKING:
    from torch import nn

    from .architectures import transformer
    from .architectures.unet import Block

OVERRIDE = "optimized_attention_override"
PIECE = 2**22  # elements of a mask that are held at a time: 8 MiB in half precision
ALIGNED = 8  # elements: rows of a mask that start elsewhere are copied by the kernel

POSITIONAL = ("mask", "attn_precision", "skip_reshape", "skip_output_reshape")  # what the host may give without names


@dataclass(frozen=True)
class Term:
    """A bias of one part of a batch."""

    amount: Callable[[slice], torch.Tensor]
    """(queries: a slice of the image's tokens) -> what to add to their logits over the context, (1 or b, 1, n, T)."""
    groups: list[Group] | None = None
    """The same without a mask, if it can be had so."""


class JointAttention:
    """The `optimized_attention_override` of one forward. Knows the calls in which image and text meet by their lengths,
    and their block by what the host says or by counting."""

    def __init__(
        self,
        family: transformer.Family,
        sequence: transformer.Sequence,
        blocks: Sequence[Block],
        previous: Callable | None,
    ) -> None:
        self.family, self.sequence, self.previous = family, sequence, previous
        self.keys = [block.key for block in blocks]
        self.watchers: dict[tuple, list[Callable]] = {}
        """By block: watch(q, k, scale), q and k (B, heads, N, D); scale None: the usual one."""
        self.biases: list[tuple[set[tuple], list[Term | None]]] = []
        """Blocks, and for each equal part of the batch what to add."""
        self.count = 0
        self.text_is_next = False
        """In a cross-attention family whose text is as long as its image: after a block's self-attention."""
        self.lengths: set[tuple[int, int]] = set()
        """(queries, keys) of all other calls."""
        self.again: tuple | None = None
        """The block that is run again in backward."""

    def __call__(self, func: Callable, q, k, v, heads: int, *args, **kwargs) -> torch.Tensor:
        plain = partial(self.previous, func) if self.previous is not None else func
        given = {**dict(zip(POSITIONAL, args, strict=False)), **kwargs}
        split = bool(given.get("skip_reshape"))
        lengths = tuple(t.shape[2 if split else 1] for t in (q, k))
        if not self._meets(lengths):
            self.lengths.add(lengths)
            return plain(q, k, v, heads, *args, **kwargs)
        key = self._key(given.get("transformer_options") or {})
        for watch in self.watchers.get(key, ()):
            watch(*(t if split else _heads(t, heads) for t in (q, k)), given.get("scale"))
        biases = [terms for keys, terms in self.biases if key in keys]
        if not biases:
            return plain(q, k, v, heads, *args, **kwargs)
        parts, size, mask = [], q.shape[0] // len(biases[0]), given.pop("mask", None)
        for number, each in enumerate(zip(*biases, strict=True)):
            part, terms = slice(number * size, (number + 1) * size), [term for term in each if term is not None]
            own, own_mask = (q[part], k[part], v[part]), _of_batch(mask, part, q.shape[0])
            if not terms:
                parts.append(plain(*own, heads, mask=own_mask, **given))
            elif len(terms) == 1 and terms[0].groups is not None and own_mask is None:
                run = partial(_run, plain, heads, given)
                pieces = attend(run, *own, 2 if split else 1, terms[0].groups, self.sequence)
                parts.append(assembled(pieces, self.sequence.queries, _axis(given)))
            else:
                pieces = self._led(*own, heads, own_mask, terms, split, given)
                parts.append(assembled(pieces, self.sequence.queries, _axis(given)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _meets(self, lengths: tuple[int, int]) -> bool:
        """Whether in a call with so many queries and keys image and text meet."""
        expected = self.sequence.queries, self.sequence.keys
        if lengths != expected:
            return False
        if self.family.cross and expected[0] == expected[1]:
            self.text_is_next = not self.text_is_next
            return not self.text_is_next
        return True

    def _key(self, options: dict) -> tuple:
        number, self.count = self.count, self.count + 1
        if self.again is not None:
            return self.again
        if self.family.tells_block:
            return options.get("block_type"), options.get("block_index"), 0
        return self.keys[number] if number < len(self.keys) else ("", number, 0)

    @contextmanager
    def inside(self, key: tuple) -> Iterator[None]:
        """Within the block, calls are those of the block `key`: one that is run again does not come in order."""
        before, self.again = self.again, key
        try:
            yield
        finally:
            self.again = before

    def _led(self, q, k, v, heads: int, mask: torch.Tensor | None, terms: list[Term], split: bool, given: dict):
        """-> (rows, attention) piece by piece, of which the image's rows have the terms added to their logits over the
        text."""
        # with the options the host's function would come back to this override
        rest = {name: value for name, value in given.items() if name != "transformer_options"}
        image, text, keys = self.sequence.image, self.sequence.text, self.sequence.keys
        step = max(1, PIECE // (keys * q.shape[0]))
        cuts: list[tuple[slice, slice | None]] = [(slice(0, image.start), None)]
        for begin in range(image.start, image.stop, step):
            end = min(begin + step, image.stop)
            cuts.append((slice(begin, end), slice(begin - image.start, end - image.start)))
        cuts.append((slice(image.stop, self.sequence.queries), None))
        for rows, cells in cuts:
            if rows.start == rows.stop:
                continue
            own = _rows(mask, rows)
            if cells is not None:
                added = sum(term.amount(cells) for term in terms)
                own = _with(own, added, text, q, keys)
            yield rows, _exact(q[:, :, rows] if split else q[:, rows], k, v, heads, own, rest)

    def check(self, begun: bool) -> bool:
        """After the forward: whether its joint attention came by. begun: it has, in a forward before (other packs may
        answer a later one from a cache). Raises a LimelightError where what the model did is not what its family
        does."""
        if self.count > len(self.keys):
            raise LimelightError(
                f"model: this {self.family.name} made {self.count} attention calls between image and text with "
                f"{len(self.keys)} blocks. "
                "Another node has changed the model's structure, so that Limelight does not know which call is which; "
                "remove that node."
            )
        if not self.count and not begun:
            lengths = ", ".join(f"{q} x {k}" for q, k in sorted(self.lengths)) or "none at all"
            tokens = f"from {self.sequence.queries} to" if self.family.cross else "over"
            raise LimelightError(
                f"model: this {self.family.name} made no attention call {tokens} {self.sequence.keys} tokens (text "
                f"{self.sequence.text.stop - self.sequence.text.start}, image {self.sequence.grid[0]} x "
                f"{self.sequence.grid[1]}) that Limelight could see; it saw {lengths}. Its attention is computed "
                "elsewhere (a quantised or compiled runtime), or another node adds tokens. Use a model that ComfyUI "
                "itself loads."
            )
        return bool(self.count)


def joined(
    options: dict | None,
    family: transformer.Family,
    network: nn.Module,
    x: torch.Tensor,
    context: torch.Tensor,
    given: dict,
) -> tuple[dict, JointAttention]:
    """The transformer options of one forward with a `JointAttention` in them, which joins one that another part of the
    pack has made for the same forward. x, context, given: what the model's `apply_model` gets."""
    options = options or {}
    before, latent = options.get(OVERRIDE), tuple(x.shape[-2:])
    if isinstance(before, JointAttention):
        return options, before
    sequence = family.sequence(network, latent, context.shape[1], given)
    joint = JointAttention(family, sequence, family.all_blocks(network, *latent), before)
    return {**options, OVERRIDE: joint}, joint


def _run(attention: Callable, heads: int, given: dict, q, k, v) -> torch.Tensor:
    return attention(q, k, v, heads, **given)


def _axis(given: dict) -> int:
    """The axis of tokens in the output of an attention call."""
    return 2 if given.get("skip_output_reshape") else 1


def _exact(q, k, v, heads: int, mask: torch.Tensor | None, rest: dict) -> torch.Tensor:
    """PyTorch's attention: it honours the mask and has a gradient."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(q, k, v, heads, mask=mask, **rest)


def _heads(t: torch.Tensor, heads: int) -> torch.Tensor:
    return t.unflatten(-1, (heads, -1)).transpose(1, 2)


def _of_batch(mask: torch.Tensor | None, part: slice, batch: int) -> torch.Tensor | None:
    return mask[part] if mask is not None and mask.ndim > 2 and mask.shape[0] == batch > 1 else mask


def _rows(mask: torch.Tensor | None, rows: slice) -> torch.Tensor | None:
    """The rows of a mask (N, M), (B, N, M) or (B, 1 or heads, 1 or N, M) -> (B or 1, 1 or heads, n or 1, M)."""
    if mask is None:
        return None
    mask = mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask
    return mask if mask.shape[2] == 1 else mask[:, :, rows]


def _with(mask: torch.Tensor | None, added: torch.Tensor, text: slice, q: torch.Tensor, length: int) -> torch.Tensor:
    """A mask, of which there may be none, plus what is added to the logits over the text, (1 or b, 1, n, T)."""
    width = -(-length // ALIGNED) * ALIGNED
    out = torch.zeros(*added.shape[:3], width, dtype=q.dtype, device=q.device)[..., :length]
    out[..., text] = added.to(q)
    if mask is None:
        return out
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -torch.inf)
    return out + mask.to(q)
