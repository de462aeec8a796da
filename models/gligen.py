"""Text-box GLIGEN for the host's UNets: SD 1.x, SD 2.x and SDXL (one gated attention in every transformer block).

Li et al., "GLIGEN: Open-Set Grounded Text-to-Image Generation" (CVPR 2023); parallel placement: Lee and Sung,
"ReGround" (ECCV 2024). The host's own class knows one gated attention a SpatialTransformer and takes blocks by their
order; here they have the host's names for them, and every weight of the file is accounted for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..guidance.attention.grounding import RESIDUAL, SLOTS, Grounding
from ..guidance.errors import LimelightError
from .gligen_keys import Key, Weights, name_of


class GatedAttention(nn.Module):
    """Attention over image and grounding tokens together, then a feed-forward, each behind a learned gate."""

    def __init__(self, dim: int, token_dim: int) -> None:
        import comfy.ops
        from comfy.ldm.modules.attention import CrossAttention, FeedForward

        super().__init__()
        ops = comfy.ops.manual_cast
        self.linear = ops.Linear(token_dim, dim)
        self.attn = CrossAttention(query_dim=dim, heads=1, dim_head=dim, operations=ops)
        self.ff = FeedForward(dim, glu=True, operations=ops)
        self.norm1, self.norm2 = ops.LayerNorm(dim), ops.LayerNorm(dim)
        self.alpha_attn, self.alpha_dense = (nn.Parameter(torch.tensor(0.0)) for _ in range(2))

    def forward(self, x: torch.Tensor, tokens: torch.Tensor, heads: int, strength: float = 1.0) -> torch.Tensor:
        """x: (B, N, dim), tokens: (B, slots, token_dim) -> what is to be added to x.

        y = x + s tanh(alpha_attn) Attn(LN([x; W tokens]))[:N];  result: y + s tanh(alpha_dense) FF(LN(y)) - x
        """
        self.attn.heads = heads  # files do not say; it is that of the block's own attention
        both = self.attn(self.norm1(torch.cat([x, self.linear(tokens)], 1)))
        attended = strength * torch.tanh(self.alpha_attn) * both[:, : x.shape[1]]
        return attended + strength * torch.tanh(self.alpha_dense) * self.ff(self.norm2(x + attended))


class TextBoxGligen(nn.Module):
    """What the host's conditioning calls: `set_position` and `set_empty` -> a patch between a block's attentions."""

    max_objs = SLOTS

    def __init__(self, weights: Weights) -> None:
        """Raises LimelightError where the weights do not go together."""
        from comfy.gligen import PositionNet

        super().__init__()
        first = next(iter(weights.fusers.values()))
        self.key_dim = weights.position["null_positive_feature"].shape[0]
        """Width of a phrase's feature: 768 for SD 1.x, 1024 for SD 2.x, 2048 for SDXL."""
        widths = {block: tensors["linear.bias"].shape[0] for block, tensors in weights.fusers.items()}
        token_dim = first["linear.weight"].shape[1]
        self.position_net = PositionNet(self.key_dim, token_dim)
        self.fusers = nn.ModuleDict({_attribute(block): GatedAttention(widths[block], token_dim) for block in widths})
        self.blocks: dict[Key, int] = widths
        """Widths of the blocks that have a gated attention."""
        _fill(self.position_net, weights.position, "position_net")
        for block, tensors in weights.fusers.items():
            _fill(self.fusers[_attribute(block)], tensors, "the fuser of block " + name_of(block))

    def set_empty(self, latent_image_shape: torch.Size, device: torch.device) -> Callable:
        """The patch of null grounding."""
        return self.set_position(latent_image_shape, [], device)

    def set_position(self, latent_image_shape: torch.Size, position_params: list, device: torch.device) -> Callable:
        """The patch for boxes. latent_image_shape: (B, C, h, w) of what the model gets. position_params: a `Grounding`
        or the stock nodes' list. Raises LimelightError for more objects than there are places."""
        from comfy.utils import repeat_to_batch_size

        grounding = position_params if isinstance(position_params, Grounding) else Grounding(position_params)
        slots = grounding.slots(tuple(latent_image_shape[-2:]))
        check_count(len(slots))
        samples = max((len(boxes) for _, boxes in slots), default=1)
        edges, masks = torch.zeros(samples, SLOTS, 4, device=device), torch.zeros(samples, SLOTS, device=device)
        features = torch.zeros(samples, SLOTS, self.key_dim, device=device)
        for i, (feature, boxes) in enumerate(slots):
            edges[:, i], masks[:, i] = torch.tensor(boxes, device=device), 1
            features[:, i] = feature.to(features)
        tokens = self.position_net(edges, masks, features)

        def patch(x: torch.Tensor, extra_options: dict) -> torch.Tensor:
            fuser = self._fuser(x, extra_options)
            here = repeat_to_batch_size(tokens.to(x.device, x.dtype), x.shape[0])
            residual = fuser(x, here, extra_options["n_heads"], grounding.strength)
            if grounding.parallel:
                extra_options[RESIDUAL] = residual
                return x
            return x + residual

        return patch

    def _fuser(self, x: torch.Tensor, extra_options: dict) -> GatedAttention:
        block = (*extra_options["block"], extra_options["block_index"])
        if self.blocks.get(block) != x.shape[-1]:
            raise _misfit(block, x.shape[-1], self.blocks)
        return self.fusers[_attribute(block)]

    def check_fits(self, network: nn.Module) -> None:
        """Raises LimelightError unless every transformer block of the host's UNet has its gated attention here."""
        from ..guidance.attention.architectures import unet

        unet.check(network)
        there = {block.key: _width(network, block.key) for block in unet.all_blocks(network, 64, 64)}
        for block in sorted({*there, *self.blocks}):
            if there.get(block) != self.blocks.get(block):
                raise _misfit(block, there.get(block), self.blocks)


def check_count(count: int) -> None:
    """Raises LimelightError for more objects than GLIGEN has places."""
    if count > SLOTS:
        raise LimelightError(
            f"highlights: found {count} objects for GLIGEN, which has room for {SLOTS} on one prompt. Remove some, or "
            "join those that belong together into one object."
        )


def build(weights: Weights) -> Any:
    """-> the host's ModelPatcher around the model, so that the host decides where its weights are."""
    import comfy.model_management as management
    from comfy.model_patcher import ModelPatcher

    model = TextBoxGligen(weights).requires_grad_(False)
    if management.should_use_fp16():
        model = model.half()
    devices = {"load_device": management.get_torch_device(), "offload_device": management.unet_offload_device()}
    return ModelPatcher(model, **devices)


def _attribute(block: Key) -> str:
    return "_".join(map(str, block))


def _fill(module: nn.Module, tensors: dict[str, torch.Tensor], what: str) -> None:
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    try:
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split("\n\t")[1:])[:300]
        raise LimelightError(
            f"gligen_name: the weights of {what} do not go together ({detail}). The file is damaged or not a text-box "
            "GLIGEN; download it again."
        ) from error


def _width(network: nn.Module, block: Key) -> int:
    from comfy.ldm.modules.attention import SpatialTransformer

    place, number, index = block
    layers = network.middle_block if place == "middle" else getattr(network, f"{place}_blocks")[number]
    transformer = next(layer for layer in layers if isinstance(layer, SpatialTransformer))
    return transformer.transformer_blocks[index].norm3.normalized_shape[0]


def _misfit(block: Key, width: int | None, gligen: dict[Key, int]) -> LimelightError:
    """width: of the block in the model; None: it has none."""
    model, ours = (f"is {side} wide" if side else "is not there" for side in (width, gligen.get(block)))
    return LimelightError(
        f"gligen_textbox_model: made for another model: block {name_of(block)} {model} in the model and {ours} in "
        f"GLIGEN ({len(gligen)} blocks). GLIGEN of SD 1.4 fits SD 1.x models, GLIGEN-XL fits SDXL; load the one for "
        "your checkpoint."
    )
