"""What one forward showed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = tuple[str, int, int]
"""The host's name for a transformer block: ("input" | "middle" | "output", number, index in the transformer)."""


@dataclass
class Seen:
    """Attention probabilities over the last axis, float32, and features, of a forward with one conditioning."""

    cross: dict[Key, torch.Tensor] = field(default_factory=dict)
    """(B, h, w, T), heads averaged; (B, heads, h, w, T) where they were asked for apart."""
    self_: dict[Key, torch.Tensor] = field(default_factory=dict)
    """(B, h, w, h * w), heads averaged."""
    affinity: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    """(B, h * w, h * w) by grid (h, w): self-attention without gradient, averaged over heads and over the blocks of
    that size; where it was asked for."""
    grounding: list[torch.Tensor] = field(default_factory=list)
    """GLIGEN's gated attention, one a coarse block: (B, heads, h * w + slots, h * w + slots), while it is on."""
    features: dict[int, torch.Tensor] = field(default_factory=dict)
    """(B, C, h, w): what output blocks hand on, by number."""
