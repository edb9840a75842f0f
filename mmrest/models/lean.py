"""Elementwise steps of the blocks that spare memory traffic where autograd allows it.

A map of a large image is written to fresh memory at the price of several passes over it, so these
write into a tensor that nobody else needs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def add_into(branch: Tensor, x: Tensor) -> Tensor:
    """``branch + x``, written into `branch`.

    Args:
        branch: the result of a linear layer, a convolution or a product, which need it for no
            gradient; it is lost.
        x: of the same shape.
    """
    # Under autocast a branch in a half type must not round the sum.
    return branch.add_(x) if branch.dtype is x.dtype else branch + x


def gelu_of(x: Tensor) -> Tensor:
    """Exact GELU of a tensor that is not needed afterwards; autograd keeps it where it records."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.gelu(x)
    return torch.ops.aten.gelu_(x)
