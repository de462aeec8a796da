"""The layouts in which text-box GLIGEN is published -> one form, with nothing missing and nothing left over.

* pruned safetensors and the original checkpoint: ``input_blocks.1.1.transformer_blocks.0.fuser.linear.weight``, the
  latter under "model" beside a whole Stable Diffusion;
* diffusers (also GLIGEN for SD 2.x and SDXL): ``down_blocks.0.attentions.0.transformer_blocks.0.fuser.linear.weight``
  among all other weights of the UNet.

Any prefix may stand before these names. ``position_net`` is named alike in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..guidance.errors import LimelightError

Key = tuple[str, int, int]
"""The host's name for a transformer block: ("input" | "middle" | "output", number, index in the transformer)."""

FUSER = frozenset(
    {"alpha_attn", "alpha_dense", "attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight"}
    | {
        f"{layer}.{kind}"
        for layer in ("linear", "attn.to_out.0", "ff.net.0.proj", "ff.net.2", "norm1", "norm2")
        for kind in ("weight", "bias")
    }
)
POSITION = frozenset(
    {"null_positive_feature", "null_position_feature"}
    | {f"linears.{number}.{kind}" for number in (0, 2, 4) for kind in ("weight", "bias")}
)

_SAME = r"transformer_blocks\.(\d+)\.fuser\.(.+)$"
_ORIGINAL = re.compile(r"(?:^|\.)(input|middle|output)_blocks?\.(?:(\d+)\.)?\d+\." + _SAME)
_DIFFUSERS = re.compile(r"(?:^|\.)(down|mid|up)_blocks?\.(?:(\d+)\.)?attentions\.(\d+)\." + _SAME)
_POSITION = re.compile(r"(?:^|\.)position_net\.(.+)$")
_NAMES = {"down": "input", "mid": "middle", "up": "output"}


@dataclass(frozen=True)
class Weights:
    """A GLIGEN checkpoint: the gated attention of each transformer block, in order, and the projection of boxes."""

    fusers: dict[Key, dict[str, torch.Tensor]]
    position: dict[str, torch.Tensor]


def read(state: Any, source: str) -> Weights:
    """A loaded file -> its GLIGEN weights. source: what the file is called, for errors.

    Raises LimelightError for a file that is not text-box GLIGEN, or of which a part is missing or not understood.
    """
    state = _network(state)
    position = {found[1]: value for key, value in state.items() if (found := _POSITION.search(key))}
    fusers, unknown = _fusers(state, source)
    if not fusers:
        named = ", ".join(sorted(state)[:3]) or "no tensor at all"
        raise LimelightError(
            f"{source}: not a GLIGEN file; expected keys such as 'input_blocks.1.1.transformer_blocks.0.fuser.linear."
            f"weight', found {named}{', ...' if len(state) > 3 else ''}. Choose the UNet file of a text-box GLIGEN, "
            "for instance gligen_sd14_textbox_pruned.safetensors."
        )
    if {*position} - POSITION:
        raise LimelightError(
            f"{source}: a GLIGEN, but not a text-box one: its position_net has {_some({*position} - POSITION)}. Files "
            "for images, keypoints or maps (hed, canny, depth, ...) are not supported; choose a text-box file."
        )
    _check(position, POSITION, "position_net", source)
    for block, weights in fusers.items():
        _check(weights, FUSER, "the fuser of block " + name_of(block), source)
    if unknown:
        raise LimelightError(
            f"{source}: found keys of GLIGEN in unknown places: {_some(unknown)}. It is of no known layout; choose a "
            "pruned, original or diffusers text-box file."
        )
    return Weights(dict(sorted(fusers.items())), position)


def name_of(block: Key) -> str:
    """A block in an error message: "input 4", "middle", "output 3, transformer 2"."""
    place, number, index = block
    return place + (f" {number}" if place != "middle" else "") + (f", transformer {index}" if index else "")


def _network(state: Any) -> dict[str, torch.Tensor]:
    """The tensors by key: of the UNet, where the file holds several networks."""
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping):
        return {}
    return {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}


def _fusers(state: Mapping[str, torch.Tensor], source: str) -> tuple[dict[Key, dict[str, torch.Tensor]], list[str]]:
    """-> fusers by block, and keys that belong to no block."""
    fusers: dict[Key, dict[str, torch.Tensor]] = {}
    per_level = _blocks_per_level(state, source)
    unknown = []
    for key, value in state.items():
        if found := _ORIGINAL.search(key):
            block = found[1], int(found[2] or 0), int(found[3])
        elif found := _DIFFUSERS.search(key):
            level, attention = int(found[2] or 0), int(found[3])
            first = {"down": 1 + level * per_level, "mid": 0, "up": level * per_level}[found[1]]
            block = _NAMES[found[1]], first + attention, int(found[4])
        else:
            unknown += [key] if ".fuser." in key else []
            continue
        part = found[found.re.groups]
        if part in fusers.setdefault(block, {}):
            raise LimelightError(f"{source}: two keys for the same weight of GLIGEN, one of them {key!r}.")
        fusers[block][part] = value
    return fusers, unknown


def _blocks_per_level(state: Iterable[str], source: str) -> int:
    """Blocks of a level in the host's counting: a level's attentions going down, and one more for the resampling."""
    levels = {"down": 0, "mid": 0, "up": 0}
    for key in state:
        if found := _DIFFUSERS.search(key):
            levels[found[1]] = max(levels[found[1]], int(found[3]) + 1)
    down, up = levels["down"], levels["up"]
    if down and up and up != down + 1:
        raise LimelightError(
            f"{source}: found {down} attentions a level going down and {up} going up; expected one more going up. A "
            "part of the file is missing, or it is of no known layout."
        )
    return up or down + 1


def _check(found: Iterable[str], expected: frozenset[str], what: str, source: str) -> None:
    missing, unused = expected - {*found}, {*found} - expected
    if missing:
        raise LimelightError(
            f"{source}: {what} is incomplete; missing {_some(missing)}. Download the file again; of a model in several "
            "files, keep all of them in one folder."
        )
    if unused:
        raise LimelightError(f"{source}: {what} has weights that text-box GLIGEN does not know: {_some(unused)}.")


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
