"""What a way of steering has to say to the guided step: where it looks, what it wants, when and how far it moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .architectures import family_of
from .seen import Seen

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .architectures.unet import Block
    from .scenes import Scene


class Method:
    """A way of steering. Every run works on a deep copy of its own for each conditioning: state may live in `self`.

    ``percent``: where on the noise schedule a step is, 0 = pure noise, 1 = the finished image.
    """

    end_percent: float = 1.0
    """Where guidance ends unless the user says otherwise."""
    normalise: bool = True
    """True: updates have the root mean square `step_size` (and a trust region); False: `step_size` times the bare
    gradient. Both in latents of variance 1, x / sqrt(1 + sigma^2)."""
    heads: bool = False
    """Keep the heads of cross-attention apart."""
    grounding: bool = False
    """Capture GLIGEN's gated attention."""
    self_attention: bool = True
    """Capture the self-attention of the blocks of `self_layout`, with gradient."""
    transformers: bool = False
    """Whether it can steer diffusion transformers: from cross-attention maps alone, heads averaged."""
    affinity: bool = False
    """Also capture self-attention without gradient, in larger maps too, of the blocks of `self_layout`. May change from
    look to look."""

    def regions(self) -> dict[int, torch.Tensor]:
        """By index of a highlight: its region (B, h, w) in [0, 1] as far as it has grown. Bias and GLIGEN follow it."""
        return {}

    def layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        """The blocks whose cross-attention is captured for a latent of height x width; at least one."""
        return family_of(network).layout_blocks(network, height, width)

    def self_layout(self, network: nn.Module, height: int, width: int) -> list[Block]:
        """The blocks whose self-attention is captured, where their maps are not too large for it."""
        return []

    def feature_blocks(self, network: nn.Module) -> tuple[int, ...]:
        """Numbers of the output blocks whose output is captured: not the last one."""
        return ()

    def continues(self, percent: float, iteration: int) -> bool:
        """Asked before every look of a step: False leaves this conditioning alone for the rest of the step, without
        the pass that `losses` would need. Iteration 0 begins a step."""
        return True

    def losses(self, seen: Seen, scene: Scene, percent: float) -> torch.Tensor:
        """-> (B, n): the loss of each highlight of the scene, differentiable. `scene.targets(h, w, device)` draws the
        targets on a grid; `scene.bound["text_tokens"]` are the columns of the prompt's words."""
        raise NotImplementedError

    def wanted(self, losses: torch.Tensor, percent: float, iteration: int) -> torch.Tensor:
        """losses (B, n), detached -> which of them to descend now, bool (B, n). A row without any is left alone."""
        return losses > 0

    def iterations(self, percent: float) -> int:
        """Updates of one step, at most."""
        return 1

    def step_size(self, percent: float) -> float:
        """Length of an update at this point of the schedule; see `normalise`."""
        raise NotImplementedError


def published_step(percent: float) -> float:
    """Which step of the published 50-step runs (timesteps 981, 961, ... 1) is at this point of the schedule; >= 0.

    Published schedules count steps; asked through this function they hold for any sampler and number of steps.
    """
    return max(0.0, (981 - 999 * (1 - percent)) / 20)


def percent_of_step(step: float) -> float:
    """The other way round: where on the noise schedule a step of the published 50-step runs is."""
    return 1 - (981 - 20 * step) / 999
