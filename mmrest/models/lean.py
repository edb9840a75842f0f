"""Steps of the blocks that spare memory and its traffic where autograd allows it.

To write a map of a large image to fresh memory costs as much as several passes over it, so these
write into tensors that nobody else needs.
"""

import functools
import itertools
import threading
from contextlib import contextmanager
from typing import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

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
    in_place = not torch.is_grad_enabled() and gate.dtype is x.dtype
    return gate.mul_(x) if in_place else x * gate


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))`` of a map (B, C, H, W).

    On the CPU a map that is much smaller than the weights is unfolded for a product of matrices,
    because torch would bring the weights into another order each time. In inference the
    statistics of a batch norm become part of the weights of the convolution of a large map.
    """
    if is_plain() or not _is_usual(conv):
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


def _is_usual(conv: nn.Module) -> bool:
    """Whether a convolution is torch's own, and one of all channels without gaps."""
    if type(conv) is not nn.Conv2d or conv.padding_mode != 'zeros':
        return False
    return conv.groups == 1 and conv.dilation == (1, 1) and not isinstance(conv.padding, str)


def _is_fixed(norm: nn.Module) -> bool:
    """Whether a norm does the same to every map."""
    if type(norm) not in (nn.BatchNorm2d, nn.SyncBatchNorm) or norm.training:
        return False
    return norm.affine and norm.running_mean is not None


def _conv_as_product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    height, width = (
        (length + 2 * p - k) // s + 1
        for length, k, s, p in zip(x.shape[2:], kernel, stride, padding)
    )
    columns = F.unfold(x.contiguous(), kernel, padding=padding, stride=stride)
    out = F.linear(columns.mT, conv.weight.flatten(1), conv.bias)
    return out.unflatten(1, (height, width)).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=1)
def keep_heap() -> None:
    """Have the C library keep up to 64 MB of what the process frees, from now on.

    glibc gives the end of its heap back to the system as soon as that exceeds twice the largest
    block of its own that was freed, though of at most 32 MB (mallopt(3), M_MMAP_THRESHOLD). The
    next map is then written to pages that the system has to clear first, which takes longer than
    most layers do. One block of that size, never touched, raises the bound; other allocators
    take no notice of it.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


class _Steps(threading.local):
    """Whether :func:`steps` asks for plain ones in a thread."""

    plain: bool = False


_steps = _Steps()


@contextmanager
def steps(plain: bool) -> Iterator[None]:
    """Take every step of this module as it is written, or in a way that spares memory."""
    before, _steps.plain = _steps.plain, plain
    try:
        yield
    finally:
        _steps.plain = before


def has_hooks(network: nn.Module) -> bool:
    """Whether something looks at what the modules inside a network compute.

    It would see overwritten maps, pieces of them, or nothing where modules are computed together.
    """
    if _global_forward_hooks or _global_forward_pre_hooks:
        return True
    inner = itertools.islice(network.modules(), 1, None)
    return any(module._forward_hooks or module._forward_pre_hooks for module in inner)


def is_plain() -> bool:
    """Whether every step is taken as it is written.

    It is where modules are looked at, where the plain form is asked for, and where a compiler
    works, which decides on memory itself.
    """
    return _steps.plain or in_graph() or forced_backend() == 'reference'
