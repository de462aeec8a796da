"""PyPI's torchvision wheels are built against CUDA torch and refuse to import beside a CPU-only torch."""

from __future__ import annotations

import sys

_OPERATORS = ("nms", "qnms")
_library = None  # torch.library forgets its definitions when the object that made them is collected


def define_missing_operators() -> None:
    """Make ``import torchvision`` work, by declaring the two operators that its own extension failed to declare.

    Does nothing when torchvision imports by itself or is not installed. Nobody here calls the operators; torchvision
    only wants to attach shape rules to them while it is imported.
    """
    global _library
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
