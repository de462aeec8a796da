"""CoAdapters in a run: the fuser looks at the features of all adapters, weighted by their regions.

The published fuser takes plain means over the image. With regions that would count what is not used: what an adapter
says about places outside its region. Here the means are weighted by the mask.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from ...models.fuser import TASKS, Fuser
from ..errors import LimelightError
from .adapter_control import AdapterControl
from .control import Call
from .view import View


class Fusing:
    """strength: how far the fuser's factors are followed; 0 leaves the adapters as they are."""

    def __init__(self, fuser: Fuser, strength: float = 1.0) -> None:
        self.network, self.strength = fuser, strength

    def copied(self) -> Fusing:
        """The same with a network of its own, for another device at the same time."""
        return Fusing(copy.deepcopy(self.network), self.strength)

    def check(self, parts: list[Any]) -> None:
        """Raises LimelightError for controls that cannot be fused."""
        widths = tuple(each.out_features for each in self.network.spatial_ch_projs)
        tasks = []
        for part in parts:
            if not isinstance(part, AdapterControl) or part.network.form.channels != widths:
                raise LimelightError(
                    "positive: one of the controls is no CoAdapter of the fuser's kind. Fuse only adapters from Load "
                    f"T2I-Adapter with levels of the widths {', '.join(map(str, widths))}."
                )
            if part.task not in TASKS:
                raise LimelightError(
                    "positive: it is not known what kind of hint an adapter takes. Set task in Load T2I-Adapter to "
                    f"one of {', '.join(TASKS)}."
                )
            tasks.append(part.task)
        if len({*tasks}) < len(tasks):
            raise LimelightError(
                f"positive: found adapters for {', '.join(tasks)}; the fuser takes one of each kind. Take one out."
            )

    def gains(
        self, parts: list[AdapterControl], view: View, call: Call, masks: list[torch.Tensor | None]
    ) -> list[list[torch.Tensor]]:
        """Of each part, the factors (1 or B, C, 1, 1) of each level."""
        means: dict[str, list[torch.Tensor]] = {}
        for part, mask in zip(parts, masks, strict=True):
            prepared = part.prepared(view, call)
            covered = part.covered(view, call, prepared, mask)
            features = part.features(view, call, prepared)
            weights = [torch.zeros_like(f[:, :1]) for f in features] if covered == [] else covered
            means[part.task] = [mean(f, weights and weights[level]) for level, f in enumerate(features)]
        count = max(len(level) for levels in means.values() for level in levels)
        same = {task: [level.expand(count, -1) for level in levels] for task, levels in means.items()}
        given = {task: [level.float() for level in levels] for task, levels in same.items()}
        found = self.network.to(call.x.device)(given)
        self.network.cpu()  # it is asked once a run, so the host need not manage it
        return [
            [(1 + self.strength * (level - 1)).to(call.x.dtype)[..., None, None] for level in found[part.task]]
            for part in parts
        ]


def mean(features: torch.Tensor, covered: torch.Tensor | None) -> torch.Tensor:
    """(B, C, h, w) -> (B, C): the mean over the image, weighted by (1 or B, 1, h, w). Where nothing is covered, 0."""
    if covered is None:
        return features.mean((2, 3))
    return (features * covered).sum((2, 3)) / covered.sum((2, 3)).clamp(min=1e-6)
