"""Autocast, and decorators for autograd functions."""

import functools
from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Optional

import torch
from torch import Tensor
from torch.autograd import Function


def autocast_off(device: torch.device) -> ContextManager:
    """Return a context that disables autocast on a device."""
    try:
        return torch.autocast(device.type, enabled=False)
    except RuntimeError:  # a device without autocast: meta, or mps before torch 2.5
        return nullcontext()


def without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a forward or backward function with autocast disabled on the device of its tensors.

    Autocast would compute their float32 parts in half precision.
    """

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        with autocast_off(next(arg.device for arg in args if isinstance(arg, Tensor))):
            return function(*args)

    return wrapped


def autocast_dtype(device: torch.device) -> Optional[torch.dtype]:
    """Return the dtype of autocast on a device, or None if it is disabled there."""
    if device.type not in ('cuda', 'cpu'):
        return None
    if hasattr(torch, 'get_autocast_dtype'):  # torch >= 2.4
        enabled = torch.is_autocast_enabled(device.type)
        return torch.get_autocast_dtype(device.type) if enabled else None
    if device.type == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


def eager_operator(
    function: Callable[..., Any], setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """Return an operator of torch.library as a function for eager mode, with the same gradient.

    It skips torch's dispatcher, whose Python code would run in every call. For `setup_context` and
    `backward`, see ``torch.library.register_autograd``.
    """

    class Eager(Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = function(*inputs)
            setup_context(ctx, inputs, output)
            return output

    Eager.backward = staticmethod(backward)
    return Eager.apply


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a backward pass raise RuntimeError with ``create_graph=True``, which would be wrong.

    torch's ``once_differentiable`` detects it only if the incoming gradient requires one.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                'this attention backend has no second derivative: run it inside '
                "mmrest.ops.use_backend('reference')"
            )
        return backward(ctx, *grads)

    return wrapped
