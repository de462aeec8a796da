"""What a trainer has to say of itself. `run.train` does the rest: cache, loop, checkpoints, log, export.

A trainer is a program of its own (``train_NAME.py``) with a class of this form, made after the options are read and the
base model is loaded; see `train_saliency_controlnet` for one. A life of a task:

    views, encode       once for each sample of the data set, before the first step; what `encode` gives is cached
                        (with --stream: for each sample as it comes, in every epoch again)
    loss                at every step, on what the cache has, batched
    validate, export    now and then, and at the end

Text is none of a task's business until the loss: the cache encodes each different caption once with
`Base.encode_text`, and drops captions (``--proportion_empty_prompts``) as it reads. In the loss,
``base.conditioning(batch)`` is what the UNet wants to be told of the prompt.

Anything random comes from what is handed in: `views` from its rng, `loss` from its draws (`draws.Draws`), never from
torch's global state. Otherwise neither resuming nor several processes would be exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import nn

from .draws import Draws

Batch = dict[str, torch.Tensor]


class Task(Protocol):
    """A network and how it is trained."""

    name: str
    """Of the kind of training; names files. Such as "saliency-controlnet"."""

    network: nn.Module
    """What is trained, float32, on the CPU at first. Only parameters with requires_grad are."""

    @property
    def images(self) -> Sequence[str]:
        """Names of the pictures that a sample has besides "image", as `samples.samples` takes them."""

    settings: dict[str, Any]
    """Plain values that `views` and `encode` depend on: with others, nothing cached is used again. Of a
    "resolution", (width, height): smaller pictures are left out."""

    def views(self, sample: dict[str, Any], rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
        """A sample (see `samples.samples`: PIL pictures by name) -> the forms in which training may meet it, uint8
        arrays; one of them is drawn each time. Flips and crops belong here. Raises LimelightError for a sample that
        cannot be used: it is reported by its key, counted and left out.
        """

    def encode(self, views: list[dict[str, np.ndarray]]) -> list[Batch]:
        """What the cache keeps of each of some views: the same names, shapes and types every time. Runs without a
        graph; the encoders are on the device. Nothing may depend on which views come together.
        """

    def loss(self, batch: Batch, draws: Draws) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """-> the loss of each sample, (B,), and further figures for the log: detached tensors of one value, left on
        the device, since reading them would make the loop wait.

        batch: the tensors of `encode` with B in front, on the device, and those of `Base.encode_text`. Runs under
        autocast where the precision is mixed.
        """

    def validate(self, batch: Batch, empty: Batch, draws: Draws) -> tuple[list[Image.Image], dict[str, float]]:
        """-> pictures that show how far training is, rows of a sheet, and figures for the log.

        batch: as in `loss`, always the same few samples of the data. empty: what `Base.encode_text` makes of "", for
        guidance. Runs in one process, without a graph, the network in eval mode and with the averaged weights if there
        are any. `preview.sample` does the sampling.
        """

    def export(self, folder: Path) -> list[Path]:
        """Write what users load; -> the files. The network has the weights to write."""
