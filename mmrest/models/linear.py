"""Linear layers through oneDNN on a CPU.

torch multiplies matrices of float32 by MKL and convolves by oneDNN, which is twice as fast on AMD
processors. A linear layer is a 1x1 convolution.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_weight

from ..ops import without_autocast
from .onednn import suits_onednn

SMALL = 20480
"""Elements of a map up to which torch convolves it by 1x1 kernels without oneDNN."""


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``.

    Args:
        layer: a linear layer, or whatever has taken its place.
        x: (..., C).
    """
    return by_onednn(x, layer.weight, layer.bias) if _suits(layer, x) else layer(x)


def _suits(layer: nn.Module, x: Tensor) -> bool:
    """Whether a layer does nothing but multiply, and torch would convolve by oneDNN."""
    if not suits_onednn(layer, nn.Linear, x):
        return False
    # The result is what the backward pass convolves.
    smaller = x.numel() // x.shape[-1] * min(layer.weight.shape)
    # torch does not convolve by oneDNN in a single thread.
    return smaller > SMALL and torch.get_num_threads() > 1


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
    if not torch.is_grad_enabled():
        return _product(x, weight, bias)
    return _Linear.apply(x, weight, bias)


class _Linear(Function):
    # The convolution's own backward pass is slower: it brings maps into another order where it
    # cannot tell that their channels lie last, and its sum over the tokens takes longer than
    # torch's.

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        # Each serves the gradient of the other one.
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        # A tensor of its own on that memory: autograd copies where one writes into a view.
        return x.new_empty(0).set_(_product(x, weight, bias))

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _product(grad_out, weight.t())
        if ctx.needs_input_grad[1]:
            shape = grad_out.shape[-1], x.shape[-1]
            kernel = conv2d_weight(_as_map(x), (*shape, 1, 1), _as_map(grad_out))
            grad_weight = kernel.view(shape)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_out.flatten(0, -2).sum(0)
        return grad_x, grad_weight, grad_bias


def _product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """(..., C) -> (..., C') for a weight (C', C)."""
    out = F.conv2d(_as_map(x), _as_kernel(weight), bias)
    return out.permute(0, 2, 3, 1).view(*x.shape[:-1], len(weight))


def _as_map(x: Tensor) -> Tensor:
    """(..., C) -> (1, C, 1, tokens), channels last: the same form for every image."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


def _as_kernel(weight: Tensor) -> Tensor:
    return weight[:, :, None, None]
