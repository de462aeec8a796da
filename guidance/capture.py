"""Attention probabilities of one forward pass, and the way out of it."""

from __future__ import annotations

from collections.abc import Callable

import torch

MAX_SELF_CELLS = 576  # self-attention is captured up to 24x24: (576 x 576) floats a head


class StopForward(Exception):
    """Raised by the last captured attention: nothing after it is needed."""


def probabilities(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    """Softmax attention, heads averaged. q: (B, N, C), k: (B, M, C), heads not split -> (B, N, M), float32.

    In float32 whatever the model's type: half precision would lose the small probabilities that the losses work on.
    """
    q, k = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return logits.softmax(-1).mean(1)


def differentiable(_, *args, **kwargs) -> torch.Tensor:
    """An `optimized_attention_override` for the guided pass: flash and sage attention have no gradient."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


class Capture:
    """Maps by block: `cross` (B, h, w, T) and `self_` (B, h, w, h * w), float32, probabilities over the last axis."""

    def __init__(self) -> None:
        self.cross: dict[tuple, torch.Tensor] = {}
        self.self_: dict[tuple, torch.Tensor] = {}

    def cross_patch(self, key: tuple, previous: Callable | None, stop: bool) -> Callable:
        """A replacement of the block's attn2; `previous` is one that was there before."""

        def patch(q, k, v, extra):
            # a checkpointed block runs again in backward: the first map is the one in the graph
            self.cross.setdefault(key, _on_grid(probabilities(q, k, extra["n_heads"]), extra))
            if stop:
                raise StopForward
            return _output(previous, q, k, v, extra)

        return patch

    def self_patch(self, key: tuple, previous: Callable | None) -> Callable:
        """A replacement of the block's attn1."""

        def patch(q, k, v, extra):
            if q.shape[1] == k.shape[1] <= MAX_SELF_CELLS:
                self.self_.setdefault(key, _on_grid(probabilities(q, k, extra["n_heads"]), extra))
            return _output(previous, q, k, v, extra)

        return patch


def _on_grid(maps: torch.Tensor, extra: dict) -> torch.Tensor:
    return maps.unflatten(1, tuple(extra["activations_shape"][-2:]))


def _output(previous: Callable | None, q, k, v, extra: dict) -> torch.Tensor:
    if previous is not None:
        return previous(q, k, v, extra)
    return differentiable(None, q, k, v, extra["n_heads"])
