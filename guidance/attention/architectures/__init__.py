"""One small adapter per model family: which blocks carry the layout, and how big their maps are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def family_of(network: nn.Module, name: str = "model") -> Any:
    """The adapter of a network: the module `unet`, or one of `transformer.FAMILIES`.

    Both have `all_blocks` and `layout_blocks` (network, height, width). Raises a LimelightError with the reason for
    networks that highlights cannot act on.
    """
    from . import transformer, unet

    found = transformer.find(network, name)
    if found is None:
        unet.check(network, name)
        return unet
    return found
