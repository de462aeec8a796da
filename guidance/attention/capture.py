"""Attention probabilities of one forward pass, and the way out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.utils.checkpoint import checkpoint

from .seen import Seen

MAX_SELF_CELLS = 1024  # self-attention is captured up to 32x32, as in SDXL's deep layers: (1024 x 1024) floats a block
MAX_AFFINITY_CELLS = 9216  # without gradient, head by head, up to 96x96
GROUNDING_SLOTS = 30  # of GLIGEN


class StopForward(Exception):
    """Raised by the last captured attention: nothing after it is needed."""


def probabilities(q: torch.Tensor, k: torch.Tensor, heads: int, average: bool = True) -> torch.Tensor:
    """Softmax attention. q: (B, N, C), k: (B, M, C), heads not split -> (B, N, M), heads averaged, or
    (B, heads, N, M); float32.

    In float32 whatever the model's type: half precision would lose the small probabilities that the losses work on.
    """
    q, k = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    maps = logits.softmax(-1)
    return maps.mean(1) if average else maps


def differentiable(_, *args, **kwargs) -> torch.Tensor:
    """An `optimized_attention_override` for the guided pass: flash and sage attention have no gradient."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


class Capture:
    """Fills a `Seen` while a forward runs.

    heads: keep the heads of cross-attention apart. attend(q, k, v, extra) -> output of a captured attention that no
    other pack replaces, extra being what the host tells replacements; by default one that has a gradient.
    """

    def __init__(self, heads: bool = False, attend: Callable | None = None) -> None:
        self.seen = Seen()
        self.self_attention = True
        self.affinity = False  # also keep self-attention without gradient
        self._added: dict[tuple, tuple] = {}  # grids of the blocks in it
        self._average = not heads
        self._attend = attend or (lambda q, k, v, extra: differentiable(None, q, k, v, extra["n_heads"]))

    def cross_patch(self, key: tuple, previous: Callable | None, stop: bool) -> Callable:
        """A replacement of the block's attn2; `previous` is one that was there before."""

        def patch(q, k, v, extra):
            # a checkpointed block runs again in backward, with the same operations: the first map is in the graph
            maps = _on_grid(probabilities(q, k, extra["n_heads"], self._average), extra)
            self.seen.cross.setdefault(key, maps)
            if stop:
                raise StopForward
            return self._output(previous, q, k, v, extra)

        return patch

    def self_patch(self, key: tuple, previous: Callable | None, stop: bool) -> Callable:
        """A replacement of the block's attn1."""

        def patch(q, k, v, extra):
            if self.self_attention and q.shape[1] == k.shape[1] <= MAX_SELF_CELLS:
                # computed again for the gradient: each head's own would take twenty times the memory
                maps = checkpoint(probabilities, q, k, extra["n_heads"], use_reentrant=False, preserve_rng_state=False)
                self.seen.self_.setdefault(key, _on_grid(maps, extra))
            if self.affinity and q.shape[1] == k.shape[1] <= MAX_AFFINITY_CELLS:
                self._add_affinity(key, q.detach(), k.detach(), extra)
            if stop:
                raise StopForward
            return self._output(previous, q, k, v, extra)

        return patch

    def _add_affinity(self, key: tuple, q: torch.Tensor, k: torch.Tensor, extra: dict) -> None:
        """The mean over the blocks of a size so far. Head by head: all at once would take eight times the memory."""
        if key in self._added:
            return
        grid = self._added[key] = tuple(extra["activations_shape"][-2:])
        q, k = (t.float().unflatten(-1, (extra["n_heads"], -1)).unbind(-2) for t in (q, k))
        each = ((a * a.shape[-1] ** -0.5 @ b.mT).softmax(-1) for a, b in zip(q, k, strict=True))
        maps = sum(each) / len(q)
        mean = self.seen.affinity.setdefault(grid, maps)
        self.seen.affinity[grid] = mean + (maps - mean) / list(self._added.values()).count(grid)

    def output_block_patch(self, numbers: Iterable[int], stop: int | None) -> Callable:
        """A patch of the output blocks' input: block n + 1 receives what block n hands on. Leaves at block `stop`."""

        def patch(h, skip, options):
            number = options["block"][1]
            if number - 1 in numbers:
                self.seen.features.setdefault(number - 1, h)
            if number == stop:
                raise StopForward
            return h, skip

        return patch

    def grounding_attention(self, _, q, k, v, heads, *args, **kwargs) -> torch.Tensor:
        """An `optimized_attention_override` for GLIGEN's gated attention."""
        if q.shape[1] <= MAX_SELF_CELLS + GROUNDING_SLOTS:
            self.seen.grounding.append(probabilities(q, k, heads, average=False))
        return differentiable(None, q, k, v, heads, *args, **kwargs)

    def _output(self, previous: Callable | None, q, k, v, extra: dict) -> torch.Tensor:
        if previous is not None:
            return previous(q, k, v, extra)
        return self._attend(q, k, v, extra)


def _on_grid(maps: torch.Tensor, extra: dict) -> torch.Tensor:
    return maps.unflatten(-2, tuple(extra["activations_shape"][-2:]))
