"""Linear layers through oneDNN on a CPU."""

from typing import Optional, Tuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_weight

from ..ops import without_autocast
from ..ops.onednn import as_map, product, suits_onednn
from .replaceable import is_replaceable


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``.

    Args:
        layer: a linear layer, or whatever has taken its place.
        x: (..., C).
    """
    return by_onednn(x, layer.weight, layer.bias) if _suits(layer, x) else layer(x)


def _suits(layer: nn.Module, x: Tensor) -> bool:
    """Whether a layer does nothing but multiply, and torch would use oneDNN in both passes."""
    # The result is what the backward pass convolves.
    return is_replaceable(layer, nn.Linear, x) and suits_onednn(
        x.numel() // x.shape[-1] * min(layer.weight.shape)
    )


def by_onednn(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """``x weight^T + bias``.

    In wide layers its rounding errors reach 2.3 times those of torch's linear layers.

    Args:
        x: (..., C), in float32.
        weight: (C', C).
        bias: (C',).

    Returns:
        (..., C').
    """
    if not torch.is_grad_enabled():  # spares what it costs to enter autograd
        return _own(product(x, weight, bias))
    return _Linear.apply(x, weight, bias)


def _own(x: Tensor) -> Tensor:
    """The memory of a view as a tensor of its own, which may be written into without a copy."""
    return x.new_empty(0).set_(x)


class _Linear(Function):
    # The convolution's own backward pass is slower: it brings maps into another order where it
    # cannot tell that their channels lie last, and its sum over the tokens takes longer than
    # torch's.

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        # Each serves the gradient of the other one.
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        return _own(product(x, weight, bias))

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad_out, weight.t())
        if ctx.needs_input_grad[1]:
            shape = grad_out.shape[-1], x.shape[-1]
            kernel = conv2d_weight(as_map(x), (*shape, 1, 1), as_map(grad_out))
            grad_weight = kernel.view(shape)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_out.flatten(0, -2).sum(0)
        return grad_x, grad_weight, grad_bias
