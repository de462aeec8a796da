"""Gradients through a model that the host has loaded for inference.

The host's weights are inference tensors, possibly half on the CPU, quantised, or patched as they are fetched; autograd
cannot save them, and a fetched copy may be overwritten by the next. So matrices and kernels are fetched once in the
forward and once more in the backward pass and never saved: no copy of the model, no gradient for weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class FrozenLinear(torch.autograd.Function):
    """A Linear with constant weights. Saves the module instead of its weight."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, module: nn.Linear) -> torch.Tensor:
        ctx.module = module
        return _whole(type(module).forward(module, x))

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        with _fetched(ctx.module, grad) as weight:
            return grad.matmul(weight), None


class FrozenConv2d(torch.autograd.Function):
    """A Conv2d with constant weights. Saves the module instead of its weight."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, module: nn.Conv2d) -> torch.Tensor:
        ctx.module, ctx.shape = module, x.shape
        return type(module).forward(module, x)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        m = ctx.module
        with _fetched(m, grad) as weight:
            return nn.grad.conv2d_input(ctx.shape, weight, grad, m.stride, m.padding, m.dilation, m.groups), None


@contextmanager
def _fetched(module: nn.Module, like: torch.Tensor) -> Iterator[torch.Tensor]:
    """The module's weight as its forward uses it (device, type, LoRA), for the length of the block."""
    import comfy.ops

    if not hasattr(module, "weight_function"):  # not one of the host's layers
        yield module.weight.to(like)
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
    try:
        # scaled fp8 and quantised layers: the scale is applied outside the fetch
        yield module.convert_weight(weight).to(like) if hasattr(module, "convert_weight") else weight.to(like.dtype)
    finally:
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)


def _constant(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().clone()


@contextmanager
def frozen_weights(*models: nn.Module, in_place: bool = False) -> Iterator[None]:
    """Within the block, forwards of `models` are differentiable with respect to their inputs. in_place: they change the
    inputs of their layer norms in place afterwards."""
    overridden: list[nn.Module] = []
    fetchers: list[tuple[nn.Module, list, list]] = []
    swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
    hooks: list[torch.utils.hooks.RemovableHandle] = []
    stack = ExitStack()
    try:
        if in_place:
            stack.enter_context(CopiedNorms())
        for module in (module for model in models for module in model.modules()):
            if in_place and isinstance(module, nn.LayerNorm):
                hooks.append(module.register_forward_pre_hook(_copy_input))
            function = _frozen_function(module)
            if function is not None:
                if "forward" not in module.__dict__:  # else another pack's own forward: leave it its say
                    module.forward = _forward(module, function)
                    overridden.append(module)
            elif getattr(module, "weight", None) is not None and hasattr(module, "weight_function"):
                # normalisations are small: let autograd save a copy of their weights
                fetchers.append((module, module.__dict__.get("weight_function"), module.__dict__.get("bias_function")))
                module.weight_function = [*module.weight_function, _constant]
                module.bias_function = [*module.bias_function, _constant]
            else:
                # parameters that a module of a transformer uses as they are: scales of norms, padding tokens
                for name, value in list(module._parameters.items()):
                    if value is not None and value.is_inference():
                        swapped.append((module, name, value))
                        module._parameters[name] = nn.Parameter(_constant(value), requires_grad=False)
        yield
    finally:
        stack.close()
        for hook in hooks:
            hook.remove()
        for module, name, value in swapped:
            module._parameters[name] = value
        for module in overridden:
            del module.__dict__["forward"]
        for module, weight_function, bias_function in fetchers:
            _restore(module, "weight_function", weight_function)
            _restore(module, "bias_function", bias_function)


class CopiedNorms(TorchFunctionMode):
    """Within it, norms that are no layers (LTX-Video's) get a copy of what they norm, as layer norms do: their input is
    changed in place afterwards."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is getattr(nn.functional, "rms_norm", None) and kwargs.get("weight") is None and len(args) < 3:
            args = (args[0].clone(), *args[1:])
        return func(*args, **kwargs)


def _copy_input(module: nn.Module, args: tuple) -> tuple:
    return (args[0].clone(), *args[1:])


def _frozen_function(module: nn.Module) -> type[torch.autograd.Function] | None:
    if isinstance(module, nn.Linear):
        return FrozenLinear
    return FrozenConv2d if isinstance(module, nn.Conv2d) else None


def _forward(module: nn.Module, function: type[torch.autograd.Function]) -> Callable:
    def forward(x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            return function.apply(x, module)
        with torch.no_grad():  # text and time embeddings: a constant branch, and the weights may ask for gradients
            return _whole(type(module).forward(module, x))

    return forward


def _whole(out: torch.Tensor) -> torch.Tensor:
    """The same numbers as a tensor of its own for autograd: transformers change what they get from a layer in place,
    and autograd forbids that for a view made where it was not looking."""
    return torch.ops.aten._unsafe_view(out, out.shape) if out._is_view() else out


def _restore(module: nn.Module, name: str, value: list | None) -> None:
    """Put an instance attribute back; None: there was only the class's."""
    if value is None:
        delattr(module, name)
    else:
        setattr(module, name, value)


@contextmanager
def own_attention(models: Iterable[nn.Module], attend: Callable) -> Iterator[None]:
    """Within the block, `attend` computes the attention of `models` that ignores the sampling options (GLIGEN)."""
    from comfy.ldm.modules.attention import CrossAttention

    options = {"optimized_attention_override": attend}
    modules = [m for model in models for m in model.modules() if isinstance(m, CrossAttention)]
    try:
        for module in modules:
            module.forward = _with_options(module, options)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def _with_options(module: nn.Module, options: dict) -> Callable:
    def forward(x, context=None, value=None, mask=None, **_):
        return type(module).forward(module, x, context, value, mask, transformer_options=options)

    return forward


@contextmanager
def checkpointed(modules: list[nn.Module]) -> Iterator[None]:
    """Within the block, these modules keep only their inputs and run again in backward."""
    modules = [module for module in modules if "forward" not in module.__dict__]
    try:
        for module in modules:
            module.forward = _checkpointed(module)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def _checkpointed(module: nn.Module) -> Callable:
    from torch.utils.checkpoint import checkpoint

    def forward(x, *args):
        # the host changes the options as it walks through the network: the second run needs those of the first
        own = [dict(arg) if isinstance(arg, dict) else arg for arg in args]
        call = type(module).forward
        return checkpoint(call, module, x, *own, use_reentrant=False, preserve_rng_state=False)

    return forward


# what the guided pass changes in the sampling options
CHANGED = ("patches", "patches_replace", "optimized_attention_override", "wrappers")


class DetachedControl:
    """A ControlNet (or adapter) in the guided pass: what it adds is a constant, computed without autograd."""

    def __init__(self, control: Any, transformer_options: dict) -> None:
        self._control = control
        self._options = transformer_options

    def __getattr__(self, name: str):
        return getattr(self._control, name)

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        # with the options of a normal pass: nothing of the control network is to be captured
        options = {key: value for key, value in transformer_options.items() if key not in CHANGED}
        options |= {key: self._options[key] for key in CHANGED if key in self._options}
        constants = {key: value.detach() if torch.is_tensor(value) else value for key, value in cond.items()}
        constants["transformer_options"] = options
        with torch.inference_mode():
            return self._control.get_control(x_noisy.detach(), t.detach(), constants, batched_number, options)
