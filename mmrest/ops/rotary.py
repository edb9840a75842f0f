"""Rotary embedding of queries and keys, by the angle of their token."""

from typing import Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from .autograd import differentiable_once, without_autocast


def rotary_frequencies(dim: int) -> Tensor:
    """Return radians per position of each pair of `dim` channels, (d / 2,) float32 on the CPU."""
    # Order and dtype as in the official code: at position 66,800 the last bit of a frequency
    # changes the angle by several milliradians.
    return 1.0 / 10000 ** torch.linspace(0, 1, dim // 2, device='cpu', dtype=torch.float32)


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate pairs of neighbouring channels of (B, H, W, n, d) by angles (H, W, d / 2, 2).

    It is computed in the wider of the two dtypes, and the result has that of `x`.
    """
    cos, sin = cos_sin[:, :, None].unbind(-1)
    even, odd = x[..., ::2], x[..., 1::2]
    rotated = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return rotated.flatten(-2).to(x.dtype)


class Rotate(Function):
    """:func:`rotate` with complex numbers: one pass, and no copy for the backward pass."""

    @staticmethod
    @without_autocast
    def forward(ctx: FunctionCtx, x: Tensor, cos_sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos_sin)
        return rotate_pairs(x, cos_sin)

    @staticmethod
    @differentiable_once
    @without_autocast
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tuple[Tensor, None]:
        (cos_sin,) = ctx.saved_tensors
        return rotate_pairs(grad, cos_sin, backward=True), None


def rotate_pairs(x: Tensor, cos_sin: Tensor, backward: bool = False) -> Tensor:
    """Rotate pairs of channels as :func:`rotate` does, or back."""
    wide = torch.promote_types(x.dtype, torch.float32)
    pairs = x.to(wide).unflatten(-1, (-1, 2))
    # Complex numbers need adjacent parts, at even offsets.
    places = (*pairs.stride()[:-1], pairs.storage_offset())
    if pairs.stride(-1) != 1 or any(place % 2 for place in places):
        pairs = pairs.clone(memory_format=torch.contiguous_format)
    pairs = torch.view_as_complex(pairs)
    phase = torch.view_as_complex(cos_sin.to(wide))[:, :, None]  # wrappers may cast it to half
    pairs = pairs * (phase.conj() if backward else phase)
    return torch.view_as_real(pairs).flatten(-2).to(x.dtype)
