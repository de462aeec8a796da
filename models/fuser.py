"""The fuser of CoAdapters: looks at the features of several T2I-Adapters together and sets how loud each channel is.

From the description of TencentARC's T2I-Adapter (CoAdapter, 2023). Each level of each adapter becomes one token, its
mean over the image; three transformer layers; each token then gives a factor for every channel of its level.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..guidance.errors import LimelightError
from . import files
from .adapter_files import unwrapped

INPUT = "fuser_name"
TASKS = {"sketch": 0, "keypose": 1, "segmentation": 2, "depth": 3, "canny": 4, "color": 6, "openpose": 7}
"""Kinds of hints by the number of their embedding; 5 is style, which has no places."""
_SIGN = "spatial_ch_projs.0.weight"  # task_embedding alone would be a union ControlNet's, too


class Fuser(nn.Module):
    """widths: of the adapters' levels, the finest first."""

    def __init__(self, widths: list[int], width: int, heads: int, layers: int, tasks: int) -> None:
        import comfy.ops

        super().__init__()
        linear = comfy.ops.manual_cast.Linear
        self.heads = heads
        self.task_embedding = nn.Parameter(torch.zeros(tasks, width))
        self.positional_embedding = nn.Parameter(torch.zeros(len(widths), width))
        self.seq_proj = nn.Parameter(torch.zeros(width, width))  # for the tokens of a style adapter, unused here
        self.spatial_feat_mapping = nn.ModuleList(nn.Sequential(nn.SiLU(), linear(each, width)) for each in widths)
        self.spatial_ch_projs = nn.ModuleList(linear(width, each) for each in widths)
        self.transformer_layes = nn.ModuleList(_Layer(width, heads) for _ in range(layers))  # the file's spelling
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, means: dict[str, list[torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
        """means: for each task the levels' means (B, channels) -> their channels' factors (B, channels)."""
        tokens = []
        for task, levels in means.items():
            mapped = [mapping(each) for mapping, each in zip(self.spatial_feat_mapping, levels, strict=True)]
            here = self.task_embedding[TASKS[task]] + self.positional_embedding
            tokens.append(torch.stack(mapped, 1) + here.to(mapped[0]))
        x = _normed(self.ln_pre, torch.cat(tokens, 1))
        for layer in self.transformer_layes:
            x = layer(x)
        found = iter(_normed(self.ln_post, x).unbind(1))
        return {task: [1 + projection(next(found)) for projection in self.spatial_ch_projs] for task in means}


class _Layer(nn.Module):
    """A pre-norm transformer layer with the fast approximation of GELU, x sigmoid(1.702 x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(width, 4 * width), c_proj=nn.Linear(4 * width, width)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False)[0]
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


def _normed(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(x)


def load(path: Path) -> Fuser:
    """The fuser in a file. Raises LimelightError for other files."""
    return build(files.read(path, INPUT), path.name)


def build(found: Any, name: str) -> Fuser:
    """The fuser of a file's contents, in float32. name: of the file, for errors."""
    state = unwrapped(found)
    if _SIGN not in state:
        raise LimelightError(
            f"{INPUT}: {name} is no fuser of CoAdapters. Choose coadapter-fuser-sd15v1; adapters go into Load "
            "T2I-Adapter."
        )
    levels = sum(key.startswith("spatial_ch_projs.") and key.endswith(".weight") for key in state)
    widths = [state[f"spatial_ch_projs.{i}.weight"].shape[0] for i in range(levels)]
    width = state[_SIGN].shape[1]
    layers = sum(key.startswith("transformer_layes.") and key.endswith(".ln_1.weight") for key in state)
    fuser = Fuser(widths, width, 8, layers, state["task_embedding"].shape[0])
    wanted = fuser.state_dict()
    wrong = sorted({*wanted} ^ {*state}) or sorted(key for key in wanted if wanted[key].shape != state[key].shape)
    if wrong:
        raise LimelightError(
            f"{INPUT}: {name} is incomplete or of an unknown kind; the first odd tensor is {wrong[0]}."
        )
    fuser.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return fuser.requires_grad_(False)
