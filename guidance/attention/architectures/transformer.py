"""Diffusion transformers whose image and text meet in one joint self-attention: where each part of the sequence is.

Read off the host's model code: comfy/ldm/modules/diffusionmodules/mmdit.py (SD3, SD3.5), flux/model.py (Flux, Flux.2),
chroma/model.py, lumina/model.py (Lumina 2, Z-Image) and qwen_image/model.py. Every sequence is

    [registers | text | padding | image, row by row | padding | reference images]

with most parts empty in most families. What a family says is checked in every run against the lengths of the attention
calls that the model makes (see `joint`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

from ...errors import LimelightError
from .names import AUTO, is_automatic, named
from .unet import Block

if TYPE_CHECKING:
    import torch
    from torch import nn

LAST_BIASED = 3 / 4  # share of the joint calls that are biased, from the front: late blocks draw details


@dataclass(frozen=True)
class Sequence:
    """Where the parts of a joint sequence are."""

    text: slice
    """The context that the model is given, the family's own padding included."""
    image: slice
    length: int
    grid: tuple[int, int]
    """(h, w) of the image's tokens."""


@dataclass(frozen=True)
class Family:
    """What there is to know about a family of transformers."""

    name: str
    network: str
    """Module and name of the host's class."""
    stacks: tuple[tuple[str, str], ...]
    """Kinds of blocks with joint attention in the order of execution: our name, attribute of the network."""
    layout: tuple[str, float, float]
    """The blocks whose attention says where things are: kind, and from which to which share of its depth. From
    published work on trained models (SD3: JEDI, Seg4Diff; Flux and Flux.2: ConceptAttention), for Lumina 2, Z-Image
    and Qwen-Image by analogy; not measured here."""
    tells_block: bool = True
    """The host says in the transformer options which block an attention call belongs to."""
    in_place: bool = False
    """Blocks add to their inputs in place, which autograd has saved."""

    def all_blocks(self, network: nn.Module, height: int, width: int) -> list[Block]:
        """Every block with joint attention, in the order of execution, for a latent of height x width."""
        grid = self.grid(network, (height, width))
        return [
            Block((kind, number, 0), grid)
            for kind, attribute in self.stacks
            for number in range(len(getattr(network, attribute)))
        ]

    def layout_blocks(self, network: nn.Module, height: int, width: int, layers: str = AUTO) -> list[Block]:
        """The blocks to capture, in the order of execution; leave after the last. layers: see `unet.layout_blocks`."""
        blocks = self.all_blocks(network, height, width)
        if not is_automatic(layers):
            return named(layers, blocks)
        kind, first, last = self.layout
        stack = [block for block in blocks if block.key[0] == kind]
        begin = int(first * len(stack))
        return stack[begin : max(begin + 1, ceil(last * len(stack)))]

    def biased_blocks(self, network: nn.Module, height: int, width: int) -> list[Block]:
        """The blocks whose attention is biased."""
        blocks = self.all_blocks(network, height, width)
        return blocks[: ceil(LAST_BIASED * len(blocks))]

    def module(self, network: nn.Module, block: Block) -> nn.Module:
        """The network's module of a block."""
        return getattr(network, dict(self.stacks)[block.key[0]])[block.key[1]]

    def grid(self, network: nn.Module, latent: Iterable[int]) -> tuple[int, int]:
        """(h, w) of the tokens of a latent."""
        h, w = (ceil(side / network.patch_size) for side in latent)
        return h, w

    def sequence(
        self, network: nn.Module, latent: tuple[int, int], context: int, references: Iterable[torch.Tensor] = ()
    ) -> Sequence:
        """The joint sequence for a latent (h, w), a context of so many tokens, and latents of reference images."""
        multiple = getattr(network, "pad_tokens_multiple", None) or 1  # Z-Image pads text and image
        grid, start = self.grid(network, latent), getattr(network, "register_length", 0)  # SD3 may have registers
        begin = ceil((start + context) / multiple) * multiple
        cells = prod(grid)
        length = begin + ceil(cells / multiple) * multiple
        length += sum(prod(self.grid(network, reference.shape[-2:])) for reference in references)
        return Sequence(slice(start, start + context), slice(begin, begin + cells), length, grid)


FLUX_STACKS = (("double", "double_blocks"), ("single", "single_blocks"))
FLUX = "comfy.ldm.flux.model:Flux"
FAMILIES = (
    Family(
        "Stable Diffusion 3",
        "comfy.ldm.modules.diffusionmodules.mmdit:OpenAISignatureMMDITWrapper",
        (("joint", "joint_blocks"),),
        ("joint", 1 / 6, 13 / 24),
        tells_block=False,
    ),
    Family("Flux", FLUX, FLUX_STACKS, ("double", 1 / 3, 1.0), in_place=True),
    Family("Chroma", "comfy.ldm.chroma.model:Chroma", FLUX_STACKS, ("double", 1 / 3, 1.0), in_place=True),
    Family(
        "Lumina 2 or Z-Image",
        "comfy.ldm.lumina.model:NextDiT",
        (("layer", "layers"),),
        ("layer", 1 / 4, 1 / 2),
        tells_block=False,
    ),
    Family(
        "Qwen-Image",
        "comfy.ldm.qwen_image.model:QwenImageTransformer2DModel",
        (("double", "transformer_blocks"),),
        ("double", 1 / 4, 1 / 2),
    ),
)
FLUX2 = Family("Flux.2", FLUX, FLUX_STACKS, ("double", 1 / 4, 1.0), in_place=True)

_OWN_ATTENTION = "it computes attention by itself, where no other code can see or change it"
_VIDEO = "it makes video, and highlights are drawn on one image"
_NOT_YET = "its sequence has not been described to Limelight yet"
REFUSED = {
    "PixArtMS": _OWN_ATTENTION,
    "HunYuanDiT": _OWN_ATTENTION,
    "ErnieImageModel": _OWN_ATTENTION,
    "HunyuanVideo": _NOT_YET,
    "WanModel": _VIDEO,
    "LTXVModel": _VIDEO,
    "GeneralDIT": _VIDEO,
    "AsymmDiTJoint": _VIDEO,
    "ChromaRadiance": _NOT_YET,
    "HiDreamImageTransformer2DModel": _NOT_YET,
    "OmniGen2Transformer2DModel": _NOT_YET,
    "MiniTrainDIT": _NOT_YET,
}
"""By names of classes (of the network or a base): why highlights cannot act on them."""


def find(network: nn.Module, name: str = "model") -> Family | None:
    """The family of a network; None: it is no transformer that we know. Raises LimelightError for those refused."""
    kind = type(network)
    for reason in (REFUSED[base.__name__] for base in kind.__mro__ if base.__name__ in REFUSED):
        raise LimelightError(
            f"{name}: found a {kind.__name__}: {reason}. Highlights work with Stable Diffusion 1.x, 2.x, XL, 3, 3.5, "
            "Flux, Flux.2, Chroma, Lumina 2, Z-Image and Qwen-Image; connect one of those."
        )
    names = {f"{base.__module__}:{base.__name__}" for base in kind.__mro__}
    for family in FAMILIES:
        if family.network in names:
            return FLUX2 if family.network == FLUX and network.params.global_modulation else family
    return None


def text_offset(sequence: Sequence, tokens: int, family: Family) -> int:
    """How many positions of padding the host has put before a conditioning of so many tokens.

    Raises LimelightError where the model is given something else than the conditioning.
    """
    context = sequence.text.stop - sequence.text.start
    if context == tokens or (family is FLUX2 and context > tokens):
        return context - tokens
    raise LimelightError(
        f"model: this {family.name} was given {context} tokens of text for a conditioning of {tokens}. Another node "
        "changes the text on its way to the model, so that phrases cannot be found in it; remove that node."
    )
