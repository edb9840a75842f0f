"""Steps of the blocks that spare memory and its traffic where autograd allows it.

To write a map of a large image to fresh memory costs as much as several passes over it, so these
write into tensors that nobody else needs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import forced_backend, in_graph

SMALL = 4
"""A map that has so many times fewer elements than the weights of its convolution is small."""


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W) for a convolution, without a copy in eager mode."""
    x = x.permute(0, 3, 1, 2)
    # torch 2.13's inductor raises "ValueRangeError: Invalid ranges [0:-1]" when it compares the
    # strides of a permuted map of dynamic size; it gives a copy the layout that it likes.
    return x.contiguous() if torch.compiler.is_compiling() else x


def add_into(branch: Tensor, x: Tensor) -> Tensor:
    """``branch + x``, written into `branch`.

    Args:
        branch: the result of a linear layer, a convolution or a product, which need it for no
            gradient; it is lost.
        x: of the same shape.
    """
    # Under autocast a branch in a half type must not round the sum.
    return branch + x if branch.dtype is not x.dtype or is_plain() else branch.add_(x)


def gelu_of(x: Tensor) -> Tensor:
    """Exact GELU of a tensor that is not needed afterwards; autograd keeps it where it records."""
    if torch.is_grad_enabled() or is_plain():
        return F.gelu(x)
    return torch.ops.aten.gelu_(x)


def gated(gate: Tensor, x: Tensor) -> Tensor:
    """``x * sigmoid(gate)``.

    Args:
        gate: the result of a convolution, which needs it for no gradient; it is lost.
        x: of the same shape.
    """
    if is_plain():
        return x * gate.sigmoid()
    gate = gate.sigmoid_()
    return x * gate if torch.is_grad_enabled() else gate.mul_(x)


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))`` of a map (B, C, H, W).

    On the CPU a map that is much smaller than the weights is unfolded for a product of matrices,
    because torch would bring the weights into another order each time. In inference the
    statistics of a batch norm become part of the weights of the convolution of a large map.
    """
    if is_plain():
        return norm(conv(x))
    if x.device.type == 'cpu' and SMALL * x.numel() < conv.weight.numel():
        return norm(_conv_as_product(conv, x))
    if torch.is_grad_enabled() or not _is_fixed(norm) or x.numel() < conv.weight.numel():
        return norm(conv(x))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, shift, conv.stride, conv.padding)


def _is_fixed(norm: nn.Module) -> bool:
    """Whether a norm does the same to every map."""
    has_both = isinstance(norm, _BatchNorm) and norm.affine and norm.running_mean is not None
    return has_both and not norm.training


def _conv_as_product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    height, width = (
        (length + 2 * p - k) // s + 1
        for length, k, s, p in zip(x.shape[2:], kernel, stride, padding)
    )
    columns = F.unfold(x.contiguous(), kernel, padding=padding, stride=stride)
    out = F.linear(columns.mT, conv.weight.flatten(1), conv.bias)
    return out.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def is_plain() -> bool:
    """Whether the plain form is asked for, or a compiler works, which decides on memory itself."""
    return in_graph() or forced_backend() == 'reference'
