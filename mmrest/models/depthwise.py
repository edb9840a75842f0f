"""Depthwise convolutions with kernels of five columns and a fast backward pass on a CPU.

oneDNN sums the gradient of a kernel of up to three columns in a fraction of the time that it takes
for wider ones, or together with that of a bias. That of five columns is made of two of three.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_weight

from ..ops import without_autocast
from ..ops.onednn import has_onednn
from .replaceable import is_replaceable


def depthwise(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)``.

    Args:
        conv: a depthwise convolution, or whatever has taken its place.
        x: (B, C, H, W).
    """
    return by_columns(x, conv.weight, conv.bias) if _suits(conv, x) else conv(x)


def _suits(conv: nn.Module, x: Tensor) -> bool:
    """Whether there will be a backward pass that is faster by columns."""
    if not torch.is_grad_enabled() or not is_replaceable(conv, nn.Conv2d, x):
        return False
    return has_onednn() and _has_five_columns(conv)


def _has_five_columns(conv: nn.Conv2d) -> bool:
    """Whether it is a depthwise convolution of such a kernel, with a result of its map's size."""
    height, width = conv.kernel_size
    if width != 5 or height % 2 == 0 or conv.padding_mode != 'zeros':
        return False
    if conv.stride != (1, 1) or conv.dilation != (1, 1):
        return False
    is_depthwise = conv.groups == conv.in_channels == conv.out_channels
    return is_depthwise and conv.padding == (height // 2, width // 2)


def by_columns(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """Depthwise convolution of a map with zeros around it.

    The gradient of the weight has the rounding errors of that of a kernel of three columns. On
    large maps they are several times those of torch's for five, and a millionth of the gradient.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, K, 5), K odd.
        bias: (C,).

    Returns:
        (B, C, H, W).
    """
    return _Depthwise.apply(x, weight, bias)


class _Depthwise(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        # Each serves the gradient of the other one.
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        ctx.height = weight.shape[2]
        return _convolved(x, weight, bias)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolved(grad_out, weight.flip(2, 3))
        if ctx.needs_input_grad[1]:
            grad_weight = _grad_weight(x, grad_out, ctx.height)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_out.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias


def _convolved(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, 2), groups=len(weight))


def _grad_weight(x: Tensor, grad_out: Tensor, height: int) -> Tensor:
    """Gradient (C, 1, height, 5) of a weight."""
    channels = x.shape[1]
    shape, settings = (channels, 1, height, 3), dict(padding=(height // 2, 0), groups=channels)
    # The columns look two tokens to the left up to none, and none up to two to the right.
    left = conv2d_weight(F.pad(x, (2, 0)), shape, grad_out, **settings)
    right = conv2d_weight(F.pad(x, (0, 2)), shape, grad_out, **settings)
    return torch.cat((left, right[..., 1:]), -1)
