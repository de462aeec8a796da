"""Diffusion transformers: in which attention calls image and text meet, and where each is in them.

Read off the host's model code: comfy/ldm/modules/diffusionmodules/mmdit.py (SD3, SD3.5), flux/model.py (Flux, Flux.2),
chroma/model.py, lumina/model.py (Lumina 2, Z-Image) and qwen_image/model.py have one joint self-attention over

    [registers | text | padding | image, row by row | padding | reference images]

with most parts empty in most families; wan/model.py, lightricks/model.py (LTX-Video) and cosmos/predict2.py have a
cross-attention from the image, row by row, to the text. What a family says is checked in every run against the lengths
of the attention calls that the model makes (see `joint`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, prod
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ...errors import LimelightError
from .names import AUTO, SUPPORTED, is_automatic, named
from .unet import Block

if TYPE_CHECKING:
    from torch import nn

LAST_BIASED = 3 / 4  # share of the joint calls that are biased, from the front: late blocks draw details


@dataclass(frozen=True)
class Sequence:
    """Where text and image are in the attention calls in which they meet."""

    text: slice
    """Among the keys: the context that the model is given, the family's own padding included."""
    image: slice
    """Among the queries."""
    queries: int
    keys: int
    grid: tuple[int, int]
    """(h, w) of the image's tokens."""


@dataclass(frozen=True)
class Family:
    """What there is to know about a family of transformers."""

    name: str
    network: str
    """Module and name of the host's class."""
    stacks: tuple[tuple[str, str], ...]
    """Kinds of blocks with such calls in the order of execution: our name, attribute of the network."""
    layout: tuple[str, float, float]
    """The blocks whose attention says where things are: kind, and from which to which share of its depth. From
    published work on trained models (SD3: JEDI, Seg4Diff; Flux and Flux.2: ConceptAttention), for the others by
    analogy; not measured here."""
    tells_block: bool = True
    """The host says in the transformer options which block an attention call belongs to."""
    in_place: bool = False
    """Blocks add to their inputs in place, which autograd has saved."""
    cross: bool = False
    """Text is looked at in a cross-attention of its own, which comes after the block's self-attention."""
    patch: str = "patch_size"
    """Attribute of the network: side of a token in the latent."""
    references: bool = False
    """Latents of reference images may follow the image."""
    unknown: tuple[str, ...] = ()
    """Inputs of the model that bring tokens of which nothing is known here."""

    def all_blocks(self, network: nn.Module, height: int, width: int) -> list[Block]:
        """Every block in which image and text meet, in the order of execution, for a latent of height x width."""
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
        patch = attrgetter(self.patch)(network)
        patch = patch if isinstance(patch, int) else patch[-1]  # of a film: frames, height, width
        h, w = (ceil(side / patch) for side in latent)
        return h, w

    def sequence(
        self, network: nn.Module, latent: tuple[int, int], context: int, others: Mapping[str, Any] | None = None
    ) -> Sequence:
        """The calls for a latent (h, w) and a context of so many tokens. others: what the model gets besides.

        Raises a LimelightError where that brings tokens of which nothing is known.
        """
        others = others or {}
        for name in self.unknown:
            if others.get(name) is not None:
                raise LimelightError(
                    f"model: this {self.name} is given {name} (reference or control images, or further frames), and "
                    "where their tokens go has not been described to Limelight. Remove the node that adds them, or "
                    "the Highlight nodes."
                )
        grid = self.grid(network, latent)
        cells = prod(grid)
        if self.cross:
            return Sequence(slice(0, context), slice(0, cells), cells, context, grid)
        multiple = getattr(network, "pad_tokens_multiple", None) or 1  # Z-Image pads text and image
        start = getattr(network, "register_length", 0)  # SD3 may have registers
        begin = ceil((start + context) / multiple) * multiple
        length = begin + ceil(cells / multiple) * multiple
        references = (others.get("ref_latents") or ()) if self.references else ()
        length += sum(prod(self.grid(network, reference.shape[-2:])) for reference in references)
        return Sequence(slice(start, start + context), slice(begin, begin + cells), length, length, grid)


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
    Family("Flux", FLUX, FLUX_STACKS, ("double", 1 / 3, 1.0), in_place=True, references=True),
    Family("Chroma", "comfy.ldm.chroma.model:Chroma", FLUX_STACKS, ("double", 1 / 3, 1.0), in_place=True),
    Family(
        "Lumina 2 or Z-Image",
        "comfy.ldm.lumina.model:NextDiT",
        (("layer", "layers"),),
        ("layer", 1 / 4, 1 / 2),
        tells_block=False,
        unknown=("ref_latents", "ref_contexts", "siglip_feats"),
    ),
    Family(
        "Qwen-Image",
        "comfy.ldm.qwen_image.model:QwenImageTransformer2DModel",
        (("double", "transformer_blocks"),),
        ("double", 1 / 4, 1 / 2),
        references=True,
    ),
    Family(
        "Wan",
        "comfy.ldm.wan.model:WanModel",
        (("block", "blocks"),),
        ("block", 1 / 4, 1 / 2),
        tells_block=False,
        cross=True,
        unknown=("reference_latent", "time_dim_concat"),
    ),
    Family(
        "LTX-Video",
        "comfy.ldm.lightricks.model:LTXVModel",
        (("block", "transformer_blocks"),),
        ("block", 1 / 4, 1 / 2),
        tells_block=False,
        in_place=True,
        cross=True,
        patch="patchifier.patch_size",
        unknown=("keyframe_idxs",),
    ),
    Family(
        "Cosmos Predict2",
        "comfy.ldm.cosmos.predict2:MiniTrainDIT",
        (("block", "blocks"),),
        ("block", 1 / 4, 1 / 2),
        tells_block=False,
        cross=True,
        patch="patch_spatial",
    ),
)
FLUX2 = Family("Flux.2", FLUX, FLUX_STACKS, ("double", 1 / 4, 1.0), in_place=True, references=True)

_OWN_ATTENTION = "it computes attention by itself, where no other code can see or change it"
_VIDEO = "it makes video, and highlights are drawn on one image"
_NOT_YET = "where its text and image are in its attention has not been described to Limelight yet"
_QUANTISED = "a runtime of its own (Nunchaku, TensorRT) computes its attention, and no other code can see it"
REFUSED = {
    **dict.fromkeys(("PixArtMS", "HunYuanDiT", "ErnieImageModel"), _OWN_ATTENTION),
    **dict.fromkeys(("GeneralDIT", "AsymmDiTJoint", "VaceWanModel", "CameraWanModel", "WanModel_S2V"), _VIDEO),
    **dict.fromkeys(("HumoWanModel", "AnimateWanModel", "LTXAVModel"), _VIDEO),
    **dict.fromkeys(("HunyuanVideo", "ChromaRadiance", "HiDreamImageTransformer2DModel", "MMDiT"), _NOT_YET),
    **dict.fromkeys(("OmniGen2Transformer2DModel", "Kandinsky5", "Anima"), _NOT_YET),
    **dict.fromkeys(("ComfyFluxWrapper", "NunchakuQwenImageTransformer2DModel", "TrTUnet"), _QUANTISED),
}
"""By names of classes (of the network or a base): why highlights cannot act on them."""


def find(network: nn.Module, name: str = "model") -> Family | None:
    """The family of a network; None: it is no transformer that we know. Raises LimelightError for those refused."""
    kind = type(network)
    for base in kind.__mro__:
        for family in FAMILIES:
            if family.network == f"{base.__module__}:{base.__name__}":
                return FLUX2 if family.network == FLUX and network.params.global_modulation else family
        if base.__name__ in REFUSED:
            raise LimelightError(f"{name}: found a {kind.__name__}: {REFUSED[base.__name__]}. {SUPPORTED}")
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
