"""Published ways of steering, as their authors' code computes them: same losses, constants, schedules and bugs.

Each is a `Method` for `step.attach`. Schedules count the steps of the published runs and are asked by the place on the
noise schedule, so that they hold for any sampler and number of steps. Where published code is made for one sample, one
token a phrase or square maps, the modules say what is done here for others.
"""

from __future__ import annotations

from ..method import Method
from .attend_and_excite import AttendAndExcite
from .boxdiff import BoxDiff
from .highlight import HighlightGuidedDiffusion, ScribbleDiffusion
from .layout_guidance import LayoutGuidance
from .refocusing_methods import AttentionRefocusing, CrossRefocusing, SelfRefocusing
from .tradiffusion import TraDiffusion

METHODS: dict[str, type[Method]] = {
    "highlight-guided-diffusion": HighlightGuidedDiffusion,
    "scribble-diffusion": ScribbleDiffusion,
    "attention-refocusing": AttentionRefocusing,
    "attention-refocusing-car": CrossRefocusing,
    "attention-refocusing-sar": SelfRefocusing,
    "boxdiff": BoxDiff,
    "layout-guidance": LayoutGuidance,
    "tradiffusion": TraDiffusion,
    "attend-and-excite": AttendAndExcite,
}
"""By the names of their rows in the placement table."""


def attach_published(model, name: str, strength: float = 1.0, **options):
    """MODEL -> a clone that is steered by a method of METHODS, modulation of attention included. `strength` and
    options: of `step.attach`; 0 is a plain clone."""
    from .. import bias, step

    method = METHODS[name]()
    guided = step.attach(model, method, strength, **options)
    modulation = getattr(method, "modulation", None)
    return guided if modulation is None or strength == 0 else bias.attach(guided, method=modulation)
