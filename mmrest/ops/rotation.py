"""Rotation of queries and keys by the angle of their token."""

from typing import Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from .autocast import without_autocast


def rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels by its angle, in the wider of the two types.

    Args:
        x: (..., d).
        sin: broadcastable to `x`.
        cos: like `sin`.

    Returns:
        Shape and type of `x`.
    """
    even, odd = x[..., ::2], x[..., 1::2]
    quarter_turn = torch.stack((-odd, even), dim=-1).flatten(-2)
    return (x * cos + quarter_turn * sin).to(x.dtype)


class Rotate(Function):
    """:func:`rotate` as a product of complex numbers: one pass, and no copy for the backward."""

    @staticmethod
    @without_autocast
    def forward(ctx: FunctionCtx, x: Tensor, turn: Tensor) -> Tensor:
        ctx.save_for_backward(turn)
        return turned(x, torch.view_as_complex(turn))

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tuple[Tensor, None]:
        (turn,) = ctx.saved_tensors
        return turned(grad, torch.view_as_complex(turn).conj()), None


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """`x` (B, H, W, n, d) with its pairs of channels times the complex (H, W, d / 2)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    pairs = x.to(wide).unflatten(-1, (-1, 2))
    # Complex numbers lie at even places, their two parts side by side.
    places = (*pairs.stride()[:-1], pairs.storage_offset())
    if pairs.stride(-1) != 1 or any(place % 2 for place in places):
        pairs = pairs.clone(memory_format=torch.contiguous_format)
    pairs = torch.view_as_complex(pairs)
    return torch.view_as_real(pairs * turn[:, :, None]).flatten(-2).to(x.dtype)
