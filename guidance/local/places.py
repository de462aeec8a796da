"""Where in a UNet an adapter's features are added, and whether they fit it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...models.adapter import Form
from ..errors import LimelightError

XL_STANDARD = (3, 5, 8)  # input blocks, then behind the middle
_LENGTH = 10  # of the host's list for SDXL; lists are read from their ends, so those of a chain have one length


class Places(NamedTuple):
    """Input blocks of the levels, the finest first; an adapter for SDXL puts one more level behind the middle block."""

    blocks: tuple[int, ...]
    length: int
    """Of the list of input blocks, as the model takes it."""


def standard(form: Form) -> Places:
    """Those of the published models."""
    if form.xl:
        return Places(XL_STANDARD, _LENGTH)
    return Places(tuple(3 * i + 2 for i in range(len(form.channels))), max(_LENGTH, 3 * len(form.channels)))


def in_network(form: Form, network: Any) -> Places:
    """Those in the UNet at hand: the last block of each size; SDXL's first level comes where the size is halved first.

    network: `diffusion_model` of the host. Raises LimelightError where the adapter was made for another kind of model.
    """
    from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel

    if not isinstance(network, UNetModel):
        raise LimelightError(
            f"control_net: T2I-Adapters are for Stable Diffusion 1, 2 and SDXL, and this model is a "
            f"{type(network).__name__}. Use a ControlNet that was made for it."
        )
    sizes, size = [], 0
    for layers in network.input_blocks:
        size += isinstance(layers[0], Downsample) or bool(getattr(layers[0], "updown", False))
        sizes.append(size)
    last = {size: number for number, size in enumerate(sizes)}
    wanted = [1, 1, 2] if form.xl else list(range(len(form.channels)))
    if size != 2 if form.xl else len(wanted) > size + 1 or wanted[-1] > size:
        raise LimelightError(_wrong(form, network))
    blocks = [last[each] for each in wanted]
    if form.xl:
        blocks[0] = sizes.index(1)
    found = [network.input_blocks[block][0].out_channels for block in blocks]
    found += [network.input_blocks[-1][0].out_channels] if form.xl else []
    if tuple(found) != form.channels:
        raise LimelightError(_wrong(form, network))
    return Places(tuple(blocks), max(_LENGTH, len(sizes)))


def _wrong(form: Form, network: Any) -> str:
    own = "SDXL" if form.xl else "Stable Diffusion 1 or 2" if len(form.channels) == 4 else "another model"
    widths = [layers[0].out_channels for layers in network.input_blocks]
    return (
        f"control_net: the adapter was made for {own} (widths {', '.join(map(str, form.channels))}), and this model's "
        f"blocks have other sizes (widths {', '.join(map(str, widths))}). Choose an adapter for this checkpoint, or a "
        "checkpoint for this adapter."
    )
