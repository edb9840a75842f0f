"""Tile sizes, arguments and functions that the Triton kernels share."""

import os
from typing import Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(os.environ.get('TRITON_INTERPRET') == '1')
"""True if TRITON_INTERPRET=1 was set when the kernels were imported."""

LOG2_E = tl.constexpr(1.4426950408889634)

COMPILED = dict(enable_fp_fusion=True)
"""Options of the compiler. Later than Triton 3.9, it fuses products and sums only on request."""

_TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def tile(length: int, q: Tensor, v: Tensor) -> int:
    """Return the number of tokens in a tile of an axis of `length`, limited by registers."""
    channels = max(q.shape[-1], v.shape[-1])
    if q.dtype.itemsize > 2:  # without tensor cores, tiles need more registers
        limit = 32 if channels <= 32 else 16
    else:
        limit = 64 if channels <= 64 else 32
    return max(16, min(limit, triton.next_power_of_2(length)))  # the minimum of tl.dot


def padded(dim: int) -> int:
    """Return the number of channels of a head, padded for a tile."""
    return max(16, triton.next_power_of_2(dim))


def wide_type(x: Tensor) -> Tuple[torch.dtype, tl.dtype]:
    """Return the accumulation dtype for `x`, for torch and for a kernel."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return wide, _TYPES[wide]


def strides(x: Tensor) -> Tuple[int, ...]:
    """Return all strides except the channels', which is 1."""
    return x.stride()[:-1]


def shared_arguments(q: Tensor, k: Tensor, v: Tensor) -> dict:
    """Return the keyword arguments that the kernels of EMSA and MaSA share."""
    dim, channels = q.shape[-1], v.shape[-1]
    return dict(
        Q=strides(q),
        K=strides(k),
        V=strides(v),
        dim=dim,
        channels=channels,
        scale=dim**-0.5,
        DIM=padded(dim),
        CHANNELS=padded(channels),
        WIDE=wide_type(q)[1],
        **COMPILED,
    )


def dense_channels(x: Tensor) -> Tensor:
    """Return `x`, copied if the stride of its channels is not 1."""
    return x if x.stride(-1) == 1 else x.contiguous()


def empty_gradients(*inputs: Tensor) -> Tuple[Tensor, ...]:
    """Return uninitialised gradients of inputs."""
    return tuple(x.new_empty(x.shape) for x in inputs)


@triton.jit
def place_of_tile(heads, tokens, TILE: tl.constexpr):
    """Return sample, head and tokens of the tile of this program instance."""
    tiles = tl.cdiv(tokens, TILE)
    pair, index = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    return (pair // heads).to(tl.int64), pair % heads, index * TILE + tl.arange(0, TILE)


@triton.jit
def product(a, b, WIDE: tl.constexpr):
    """Return ``a @ b``, accumulated in a wide dtype and without TF32."""
    if INTERPRETED and a.dtype == tl.bfloat16:
        # The interpreter reads a bfloat16 as an integer; float32 is exact.
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision='ieee', out_dtype=WIDE)


@triton.jit
def read(x, stride, token, tokens, dim, DIM: tl.constexpr):
    """Load vectors of some tokens, (tokens, DIM); 0 beyond the last token and channel."""
    channel = tl.arange(0, DIM)
    inside = (token < tokens)[:, None] & (channel < dim)[None, :]
    return tl.load(x + token[:, None] * stride + channel[None, :], mask=inside, other=0.0)


@triton.jit
def write(x, values, stride, token, tokens, dim, DIM: tl.constexpr, ADD: tl.constexpr = False):
    """Store vectors of some tokens in the type of `x`, or add to them."""
    channel = tl.arange(0, DIM)
    inside = (token < tokens)[:, None] & (channel < dim)[None, :]
    address = x + token[:, None] * stride + channel[None, :]
    if ADD:  # no other instance accesses them
        values += tl.load(address, mask=inside, other=0.0)
    tl.store(address, values.to(x.dtype.element_ty), mask=inside)
