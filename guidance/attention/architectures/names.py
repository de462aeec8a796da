"""Names of transformer blocks, for people who choose them by hand: "output 0.1-6, middle"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ...checks import show
from ...errors import LimelightError

if TYPE_CHECKING:
    from .unet import Block

AUTO = "auto"
SUPPORTED = (
    "Highlights work with Stable Diffusion 1.x, 2.x, XL, 3, 3.5, Flux, Flux.2, Chroma, Lumina 2, Z-Image and "
    "Qwen-Image, and with single images of Wan, LTX-Video and Cosmos Predict2; connect one of those."
)
_RANGE = r"(\d+)(?:\s*-\s*(\d+))?"
_PART = "input|middle|output|joint|double|single|layer|block"  # the last five: of diffusion transformers
_NAME = re.compile(rf"({_PART})(?:\s+{_RANGE})?(?:\s*\.\s*{_RANGE})?", re.ASCII)


def is_automatic(text: str) -> bool:
    """Whether the text leaves the choice to the pack: "auto", or nothing. Raises LimelightError for what is no text."""
    if not isinstance(text, str):
        raise LimelightError(f"layers: found {show(text)}; expected text such as 'output 0.1-6, middle', or 'auto'.")
    return text.strip().lower() in ("", AUTO)


def named(text: str, blocks: Sequence[Block]) -> list[Block]:
    """Those of `blocks` that the text names, in their order.

    Names are separated by commas: "input 7" is a layer with all its blocks, "output 3-5" a range of layers, "output
    0.1-6" blocks 1 to 6 of a layer, "input" every layer on the way down. The ends of a range must be there; what it
    skips (layers without cross-attention) need not. Raises LimelightError, which lists what there is.
    """
    keys = [block.key for block in blocks]
    chosen = {key for name in text.lower().split(",") for key in _keys(name.strip(), keys)}
    return [block for block in blocks if block.key in chosen]


def _keys(name: str, keys: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise LimelightError(
            f"layers: found {show(name)}; expected names such as 'output 0.1-6, middle', separated by commas, or "
            f"'auto'. This model has {listing(keys)}."
        )
    part, low_layer, high_layer, low_block, high_block = match.groups()
    found = [key for key in keys if key[0] == part]
    for place, first, last in ((0, low_layer, high_layer), (1, low_block, high_block)):
        if first is None:
            continue
        low, high = int(first), int(last or first)
        if not {low, high} <= {key[1:][place] for key in found}:
            found = []
        found = [key for key in found if low <= key[1:][place] <= high]
    if not found:
        raise LimelightError(f"layers: {show(name)} is not in this model. Choose from {listing(keys)}.")
    return found


def listing(keys: Iterable[tuple[str, int, int]]) -> str:
    """All these blocks in names that `named` understands: "input 1-2, input 4-5, middle, output 3-11"."""
    layers = [(part, number, len(list(group))) for (part, number), group in groupby(keys, lambda key: key[:2])]
    # neighbours with as many blocks have the same difference between their number and their place in the list
    runs = groupby(enumerate(layers), lambda entry: (entry[1][0], entry[1][2], entry[1][1] - entry[0]))
    return ", ".join(_run(*key[:2], [layer[1] for _, layer in group]) for key, group in runs)


def _run(part: str, depth: int, numbers: list[int]) -> str:
    blocks = "" if depth == 1 else f".0-{depth - 1}"
    return f"{part}{blocks}" if part == "middle" else f"{part} {_range(numbers)}{blocks}"


def _range(numbers: list[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
