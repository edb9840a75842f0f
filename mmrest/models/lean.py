"""Steps of the blocks that spare memory and its traffic where autograd allows it.

To write a map of a large image to fresh memory costs as much as several passes over it, so these
write into tensors that nobody else needs; and the backward pass computes again what is cheap.
"""

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops import forced_backend, in_graph

RECOMPUTED_ELEMENTS = 2**22
"""Elements from which on a hidden map is worth being computed twice: 16 MB in float32."""


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
    return branch + x if branch.dtype is not x.dtype or _plain() else branch.add_(x)


def gelu_of(x: Tensor) -> Tensor:
    """Exact GELU of a tensor that is not needed afterwards; autograd keeps it where it records."""
    if torch.is_grad_enabled() or _plain():
        return F.gelu(x)
    return torch.ops.aten.gelu_(x)


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)``, for which autograd keeps `x` alone where that is large.

    The backward pass computes the function again, up to the last tensor that it needs: a linear
    layer at the end is not computed twice.

    Args:
        function: without random numbers.
        x: its argument.
    """
    if not torch.is_grad_enabled() or _plain() or x.numel() < RECOMPUTED_ELEMENTS:
        return function(x)
    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)


def _plain() -> bool:
    """Whether the plain form is asked for, or a compiler works, which decides on memory itself."""
    return in_graph() or forced_backend() == 'reference'
