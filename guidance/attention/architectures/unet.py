"""The UNet family (Stable Diffusion 1.x, 2.x, SDXL and their kin): which cross-attentions carry layout.

Layout lives in the coarse maps: 16x16 and 8x8 of an SD1.5 at 512 px, 32x32 of an SDXL at 1024 px. Finer maps follow
texture, coarser ones hold a few cells. Stated relative to the latent so that other sizes get their counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import LimelightError
from .names import AUTO, SUPPORTED, is_automatic, named

if TYPE_CHECKING:
    from torch import nn

    from ..capture import Capture

FINEST = 16  # cells of the short side that are always taken as coarse enough ...
FINEST_SHARE = 1 / 4  # ... or this share of the latent's short side, for large images
SLACK = 1.5  # sizes between two powers of two
COARSEST = 8  # cells of the short side below which a map says nothing about a stroke
DEEP = range(1, 7)  # blocks of a deep transformer (SDXL) that place objects: those of Bounded Attention (ECCV 2024)


@dataclass(frozen=True)
class Block:
    """One transformer block: the host's name for it, and the (h, w) of its attention maps."""

    key: tuple[str, int, int]  # ("input" | "middle" | "output", number, index in the transformer)
    grid: tuple[int, int]


def check(diffusion_model: nn.Module, name: str = "model") -> None:
    """Raise a LimelightError unless the network is an image UNet of the host."""
    from comfy.ldm.modules.attention import SpatialVideoTransformer
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    if not isinstance(diffusion_model, UNetModel):
        raise LimelightError(
            f"{name}: found a {type(diffusion_model).__name__}, expected a UNet or one of the transformers that have "
            f"been described to Limelight. {SUPPORTED}"
        )
    if any(isinstance(module, SpatialVideoTransformer) for module in diffusion_model.modules()):
        raise LimelightError(f"{name}: found a video UNet, expected an image UNet. Video models are not supported yet.")


def all_blocks(unet: nn.Module, height: int, width: int) -> list[Block]:
    """Every block with cross-attention, in the order of execution, for a latent of height x width."""
    from comfy.ldm.modules.attention import SpatialTransformer
    from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample

    def blocks(layers: nn.Module, name: str, number: int, grid: tuple[int, int]) -> list[Block]:
        transformers = [layer for layer in layers if isinstance(layer, SpatialTransformer)]
        return [
            Block((name, number, index), grid)
            for transformer in transformers
            for index, block in enumerate(transformer.transformer_blocks)
            if block.attn2 is not None and not block.switch_temporal_ca_to_sa
        ]

    found, grid, skips = [], (height, width), []
    for number, layers in enumerate(unet.input_blocks):
        if any(isinstance(layer, Downsample) for layer in layers):
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        found += blocks(layers, "input", number, grid)
        skips.append(grid)
    if unet.middle_block is not None:
        found += blocks(unet.middle_block, "middle", 0, grid)
    for number, layers in enumerate(unet.output_blocks):
        found += blocks(layers, "output", number, skips.pop())  # an output block works at the size of its skip
    return found


def layout_blocks(unet: nn.Module, height: int, width: int, layers: str = AUTO) -> list[Block]:
    """The blocks to capture for a latent of height x width, in the order of execution; leave after the last.

    layers: names of blocks (see `names.named`) instead of those that suit the model.
    """
    blocks = all_blocks(unet, height, width)
    if not blocks:
        raise LimelightError("model: this UNet has no cross-attention, so no phrase can be placed in it.")
    if not is_automatic(layers):
        return named(layers, blocks)
    limit = SLACK * max(FINEST, FINEST_SHARE * min(height, width))
    sides = sorted({min(block.grid) for block in blocks})
    fitting = {side for side in sides if COARSEST <= side <= limit}
    # very small latents: the finest map there is; very large ones: the coarsest
    chosen = fitting or {sides[-1] if sides[-1] < COARSEST else sides[0]}
    return _without_deep([block for block in blocks if min(block.grid) in chosen])


def _without_deep(blocks: list[Block]) -> list[Block]:
    """Where transformers are deep, averaging all of them would drown the few blocks that place objects."""
    if max(block.key[2] for block in blocks) <= 1:
        return blocks
    first = next((block.key[:2] for block in blocks if block.key[0] == "output"), blocks[-1].key[:2])
    return [block for block in blocks if block.key[:2] == first and block.key[2] in DEEP]


def install(
    to: dict,
    capture: Capture,
    cross: list[Block],
    self_: Sequence[Block] = (),
    features: tuple[int, ...] = (),
    leave: bool = True,
) -> None:
    """Make the forward that runs with these (already cloned) transformer options fill `capture`; `leave` it when
    everything has been seen. A replacement that another pack has installed keeps its say over the block's output.
    """
    replace = to["patches_replace"] = {name: dict(group) for name, group in to.get("patches_replace", {}).items()}
    patches = to["patches"] = dict(to.get("patches", {}))
    last = max(_order_of(*call) for call in _calls(cross, self_, features)) if leave else None
    for kind, blocks, patch in (("attn1", self_, capture.self_patch), ("attn2", cross, capture.cross_patch)):
        group = replace.setdefault(kind, {})
        for block in blocks:
            previous = group.get(block.key, group.get(block.key[:2]))
            group[block.key] = patch(block.key, previous, stop=_order_of(block.key, kind) == last)
    if features:
        behind = max(features) + 1
        stop = behind if last == _order_of(("output", behind, -1), "") else None
        patch = capture.output_block_patch(features, stop)
        patches["output_block_patch"] = [*patches.get("output_block_patch", ()), patch]
    # a ControlNet adds to the stored skip in place, and autograd has saved that tensor: hand on a copy
    if leave:
        patches["input_block_patch_after_skip"] = [*patches.get("input_block_patch_after_skip", ()), _copy]


STAGES = ("input", "middle", "output")


def _calls(cross: Sequence[Block], self_: Sequence[Block], features: Sequence[int]) -> list[tuple]:
    """(key, kind) of everything that is captured; features are seen at the entry, index -1, of the block behind."""
    attention = [(block.key, "attn2") for block in cross] + [(block.key, "attn1") for block in self_]
    return attention + [(("output", number + 1, -1), "") for number in features]


def _order_of(key: tuple[str, int, int], kind: str) -> tuple:
    """Sorts by when they run; in a block, self-attention (attn1) comes before cross-attention (attn2)."""
    return (STAGES.index(key[0]), *key[1:], kind)


def checkpointable(
    unet: nn.Module, cross: Sequence[Block], self_: Sequence[Block] = (), features: Sequence[int] = ()
) -> list[nn.Module]:
    """Modules that may be run again in backward: all but those of the last block, which is left half way."""
    from comfy.ldm.modules.attention import SpatialTransformer
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock

    name, number, _ = max(_calls(cross, self_, features), key=lambda call: _order_of(*call))[0]
    last = unet.middle_block if name == "middle" else getattr(unet, f"{name}_blocks")[number]
    left = set(last.modules())
    return [m for m in unet.modules() if isinstance(m, (ResBlock, SpatialTransformer)) and m not in left]


def _copy(h, transformer_options):
    return h.clone()
