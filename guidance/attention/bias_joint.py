"""Attention bias in diffusion transformers: amounts added to the logits of the image's tokens over the words, or words
that count several times or not at all.

What is added fades in a straight line from the beginning of the window to its end, so that the last steps are free to
draw. Words and image in reference pictures, the text's own view of the image, and the image's view of itself stay as
they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .bias_methods import Layout
from .descent import percent_of
from .joint import OVERRIDE, JointAttention, Term, joined
from .routes import groups_of, weights_of

if TYPE_CHECKING:
    from .architectures.transformer import Family
    from .bias_methods import BiasMethod
    from .scenes import Scene


class JointRun:
    """One sampling run of a transformer. strengths: as in `bias.install`; only attn2, that to words, is of use."""

    def __init__(
        self,
        family: Family,
        network: torch.nn.Module,
        model_sampling: Any,
        found: list[Scene],
        window: tuple[float, float],
        method: BiasMethod,
        strengths: dict[str, float],
    ) -> None:
        self.family, self.network, self.model_sampling, self.method = family, network, model_sampling, method
        self.strength, self.window = strengths["attn2"], window
        self.scenes = {scene.cond["uuid"]: scene for scene in found}
        self.high, self.low = (float(model_sampling.percent_to_sigma(percent)) for percent in window)
        self.begun = False
        self._made: dict[tuple, object] = {}

    def options(self, given: dict, x: torch.Tensor, sigma: torch.Tensor, context: torch.Tensor, others: dict) -> dict:
        """The transformer options of one forward with the bias in them; the same object where there is none.

        others: what the model's forward gets besides, for reference images.
        """
        rows = [self.scenes.get(one) for one in given.get("uuids", ())]
        strength = self.strength * self._fade(sigma)
        if not any(rows) or not strength or not self.low <= float(sigma[0]) <= self.high:
            return given
        options, joint = joined(given, self.family, self.network, x, context, others)
        keys = {block.key for block in self.family.biased_blocks(self.network, *x.shape[-2:])}
        terms = [None if scene is None else self._term(scene, joint, x.device, strength) for scene in rows]
        joint.biases.append((keys, terms))
        return options

    def done(self, options: dict) -> None:
        """After the forward with these options: check that the model did what its family does."""
        joint = options.get(OVERRIDE)
        if isinstance(joint, JointAttention):
            self.begun = joint.check(self.begun) or self.begun

    def _fade(self, sigma: torch.Tensor) -> float:
        start, end = self.window
        return min(max((end - percent_of(self.model_sampling, sigma)) / max(end - start, 1e-6), 0.0), 1.0)

    def _term(self, scene: Scene, joint: JointAttention, device: torch.device, strength: float) -> Term:
        from .architectures.transformer import text_offset

        sequence, tokens = joint.sequence, scene.cond["cross_attn"].shape[1]
        offset = text_offset(sequence, tokens, self.family)
        place = (scene.cond["uuid"], sequence.grid, offset, device)
        with torch.inference_mode(False):  # the guided step's pass cannot use inference tensors
            layout = self._kept(place, lambda: Layout.of(scene, sequence.grid, device, tokens, tokens))
            counts = self.method.counts(layout, strength)
            if counts is None:
                amount = self._kept((*place, "amount"), lambda: _moved(self.method.joint(layout), offset))
                return Term(lambda queries: strength * amount[:, :, queries])
            own = _moved(layout.own[:-1], offset)
            groups = self._kept((*place, strength), lambda: groups_of(counts[0, 0], own))
        return Term(lambda queries: weights_of(counts[:, :, queries], own), groups)

    def _kept(self, key: tuple, make: Callable):
        """What `make` makes, once a run."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def _moved(columns: torch.Tensor, offset: int) -> torch.Tensor:
    """(..., T) behind padding that the host puts before the conditioning."""
    return torch.nn.functional.pad(columns, (offset, 0))
