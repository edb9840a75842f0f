"""Linear layers through oneDNN on a CPU.

torch multiplies matrices of float32 by MKL, which uses half of what an AMD processor can, and
convolves by oneDNN, which uses all. A linear layer is a 1x1 convolution.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_weight

from ..ops import without_autocast
from .lean import is_plain

FEW = 32
"""Tokens below which to bring the weights into oneDNN's order costs more than is won."""


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``.

    Args:
        layer: a linear layer, or whatever has taken its place.
        x: (..., C).
    """
    return by_onednn(x, layer.weight, layer.bias) if _suits(layer, x) else layer(x)


def _suits(layer: nn.Module, x: Tensor) -> bool:
    """Whether oneDNN computes a layer, and that faster than the layer does."""
    if type(layer) is not nn.Linear or is_plain() or x.device.type != 'cpu':
        return False
    if x.dtype is not torch.float32 or layer.weight.dtype is not torch.float32:
        return False
    if torch.is_autocast_enabled('cpu') or x.numel() < FEW * x.shape[-1]:
        return False
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled


def by_onednn(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """``x weight^T + bias``.

    Args:
        x: (..., C), in float32.
        weight: (C', C).
        bias: (C',).

    Returns:
        (..., C').
    """
    return _Linear.apply(x, weight, bias)


class _Linear(Function):
    # The convolution's own backward pass is slower: it brings maps into another order where it
    # cannot tell that their channels lie last, and its sum over the tokens takes longer than
    # torch's.

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
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
            shape = _as_kernel(weight).shape
            grad_weight = conv2d_weight(_as_map(x), shape, _as_map(grad_out)).view_as(weight)
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
