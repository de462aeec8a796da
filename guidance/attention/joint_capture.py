"""How the image's tokens look at the words in a transformer, with a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ..errors import LimelightError
from .architectures.transformer import text_offset
from .autograd import CopiedNorms
from .capture import StopForward
from .joint import OVERRIDE, JointAttention, joined
from .seen import Seen

if TYPE_CHECKING:
    from torch import nn

    from .architectures.transformer import Family
    from .architectures.unet import Block
    from .scenes import Scene

WRAPPER = "limelight_probe"


def probabilities_of(
    q: torch.Tensor, k: torch.Tensor, columns: Sequence[int], scale: float | None = None
) -> torch.Tensor:
    """What queries give to some of the keys: q (B, heads, n, D), k (B, heads, N, D) -> (B, n, len(columns)), softmax
    over all N keys, heads averaged; float32. Several heads of q may share one of k.

    The n x N matrix is never there: an attention kernel averages, in place of values, the indicators of the columns,
    and so returns their probabilities with the exact denominator.
    """
    q, k, width = q.float(), k.float(), q.shape[-1]
    k = k if k.shape[1] == q.shape[1] else k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    found = []
    for begin in range(0, len(columns), width):  # as wide as q and k, for kernels that ask for it
        own = columns[begin : begin + width]
        indicators = k.new_zeros(k.shape[2], width)
        indicators[list(own), range(len(own))] = 1
        values = indicators.expand(*k.shape[:2], -1, -1)
        found.append(F.scaled_dot_product_attention(q, k, values, scale=scale)[..., : len(own)].mean(1))
    return torch.cat(found, -1)


class JointCapture:
    """Fills a `Seen` while a forward of a scene runs: of the prompt's words in the given blocks; all other columns of
    the maps are 0."""

    def __init__(self, family: Family, network: nn.Module, scene: Scene, blocks: Sequence[Block]) -> None:
        self.family, self.network, self.scene, self.blocks = family, network, scene, list(blocks)
        self.seen = Seen()
        named = (token for target in scene.bound["highlights"] for token in target["tokens"])
        self.columns = sorted({*scene.bound["text_tokens"], *named})

    def install(self, to: dict) -> None:
        """Make forwards of the scene alone with these (already cloned) transformer options fill `seen`, and leave them
        after the last block."""
        from comfy.patcher_extension import WrappersMP

        wrappers = to["wrappers"] = dict(to.get("wrappers", {}))
        kind = WrappersMP.APPLY_MODEL
        wrappers[kind] = {**wrappers.get(kind, {}), WRAPPER: [self._apply_model]}

    def _apply_model(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **given
    ):
        options, joint = joined(transformer_options, self.family, self.network, x, c_crossattn, given)
        self.watch(joint)
        joint.watchers[self.blocks[-1].key].append(partial(_leave, joint))
        executor(x, t, c_concat, c_crossattn, control, options, **given)
        joint.check(False)
        kind, number, _ = self.blocks[-1].key
        raise LimelightError(
            f"model: this {self.family.name} never came to its block {kind} {number}. Another node leaves "
            "out blocks; remove that node, or name other layers."
        )

    def watch(self, joint: JointAttention, rows: slice = slice(None)) -> None:
        """Make one forward fill `seen` from these rows of its batch."""
        tokens = self.scene.cond["cross_attn"].shape[1]
        first = joint.sequence.text.start + text_offset(joint.sequence, tokens, self.family)
        for block in self.blocks:
            watchers = joint.watchers.setdefault(block.key, [])
            watchers.append(partial(self._see, joint, block, rows, tokens, first))

    def _see(
        self, joint: JointAttention, block: Block, rows: slice, tokens: int, first: int, q, k, scale: float | None
    ) -> None:
        own = [first + column for column in self.columns]
        run = partial(probabilities_of, columns=own, scale=scale)
        if torch.is_grad_enabled():
            # computed again for the gradient: only q and k are kept, which the host's attention needs anyway
            run = partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)
        found = run(q[rows, :, joint.sequence.image], k[rows])
        columns = torch.tensor(self.columns, device=found.device)
        maps = found.new_zeros(*found.shape[:2], tokens).index_copy(2, columns, found)
        # a checkpointed block runs again in backward, with the same operations: the first map is in the graph
        self.seen.cross.setdefault(block.key, maps.unflatten(1, joint.sequence.grid))


def _leave(joint: JointAttention, *_) -> None:
    if joint.again is None:
        raise StopForward


@contextmanager
def checkpointed_blocks(family: Family, network: nn.Module, blocks: Sequence[Block]) -> Iterator[None]:
    """Within the block, which has to last until backward is done, the network's blocks before the last of `blocks` keep
    only their inputs and run again in backward."""
    modules = []
    try:
        for block in family.all_blocks(network, 1, 1):
            if block.key == blocks[-1].key:
                break
            module = family.module(network, block)
            if "forward" not in module.__dict__:  # else another pack's own forward
                modules.append(module)
                module.forward = _checkpointed(module, block.key, family.in_place)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def _checkpointed(module: nn.Module, key: tuple, in_place: bool) -> Callable:
    def forward(*args, **kwargs):
        # the host changes the options as it walks through the network: the second run needs those of the first
        kwargs["transformer_options"] = options = dict(kwargs.get("transformer_options") or {})
        runs: list[tuple] = []

        def run(*given, **named):
            # Flux adds to its streams in place: the second run needs them as they were
            args, kwargs = [_own(value) for value in given], {name: _own(value) for name, value in named.items()}
            joint = options.get(OVERRIDE)
            if not runs or not isinstance(joint, JointAttention):
                runs.append(key)
                return type(module).forward(module, *args, **kwargs)
            with joint.inside(key), CopiedNorms() if in_place else nullcontext():  # in a thread of autograd's
                return type(module).forward(module, *args, **kwargs)

        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return forward


def _own(value: Any) -> Any:
    """A copy of a stream of tokens, (B, N, C); other arguments as they are."""
    return value.clone() if torch.is_tensor(value) and value.ndim == 3 else value
