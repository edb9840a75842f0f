"""MaSA in Triton: queries and keys are rotated once, decay and softmax share a kernel.

Both forms use one kernel over lines of tokens, (B, O, T, n, d). The full form has one line per
sample, all tokens of the map; the axial form has one line per row, then one per column. Columns
are transposed views, so no map is transposed in memory. Powers of 2 replace powers of e, because
GPUs have an instruction for them. The maximum and the inverse sum of each query's softmax are
stored for the backward pass; a logarithm would round the weights of large logits.
"""

from typing import Any, Dict, Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from ..autograd import differentiable_once, without_autocast
from ..gpu import on_device_of
from ..tiles import (
    dense_channels,
    padded,
    place_of_tile,
    product,
    shared_arguments,
    strides,
    tile,
    wide_type,
)
from .tables import PositionTables

LOG2_E = tl.constexpr(1.4426950408889634)

AXIAL_TILE, AXIAL_WARPS = 32, 2
"""Largest tile along an axis, and its warps: lines are short, and there are many of them."""

ROTATED_TILE = 64
"""Vectors that a program instance rotates."""


def masa_full_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return full MaSA; see :func:`mmrest.ops.masa.masa`."""
    with on_device_of(q):
        q, k = _Rotate.apply(q, tables.cos_sin), _Rotate.apply(k, tables.cos_sin)
        lines = [x.flatten(1, 2)[:, None] for x in (q, k, v)]
        out = _MaSA.apply(*lines, tables.log_gamma, v.shape[2])
    return out[:, 0].unflatten(1, v.shape[1:3])


def masa_axial_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return axial MaSA; see :func:`mmrest.ops.masa.masa`."""
    with on_device_of(q):
        q, k = _Rotate.apply(q, tables.cos_sin), _Rotate.apply(k, tables.cos_sin)
        v = _MaSA.apply(q, k, v, tables.log_gamma, None)
        columns = [x.transpose(1, 2) for x in (q, k, v)]
        return _MaSA.apply(*columns, tables.log_gamma, None).transpose(1, 2)


class _Rotate(Function):
    """:func:`mmrest.ops.rotary.rotate` of (B, H, W, n, d) in one pass."""

    @staticmethod
    @without_autocast
    def forward(ctx: FunctionCtx, x: Tensor, cos_sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos_sin)
        return _rotated(x, cos_sin, 1)

    @staticmethod
    @differentiable_once
    @without_autocast
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tuple[Tensor, None]:
        return _rotated(grad, *ctx.saved_tensors, -1), None


def _rotated(x: Tensor, cos_sin: Tensor, sign: int) -> Tensor:
    """Rotate (B, H, W, n, d) by the angles of ``cos_sin``, or back by a `sign` of -1."""
    flat = dense_channels(x).flatten(1, 2)
    _, tokens, heads, dim = flat.shape
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    grid = triton.cdiv(tokens * heads, ROTATED_TILE), len(x)
    _rotate[grid](
        flat, cos_sin.to(wide_type(x)[0]).contiguous(), out, strides(flat), tokens, heads, dim,
        sign, DIM=padded(dim), TILE=ROTATED_TILE,
    )  # fmt: skip
    return out


class _MaSA(Function):
    """``softmax(q k^T / sqrt(d) + log decay) v`` over lines (B, O, T, n, d) of rotated q and k.

    `width` is the row length of a map flattened to a line; None is a line along one axis.
    """

    @staticmethod
    @without_autocast
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_gamma: Tensor,
        width: Optional[int],
    ) -> Tensor:
        q, k, v = map(dense_channels, (q, k, v))
        wide = wide_type(q)[0]
        log_gamma = log_gamma.to(wide)
        out = torch.empty_like(v)  # with the strides of the values, transposed views too
        batch, outer, tokens, heads, _ = q.shape
        m_i, r_i = (q.new_empty((batch, outer, heads, tokens), dtype=wide) for _ in range(2))
        ctx.grid, ctx.layout = _layout(q, k, v, width)
        tensors = q, k, v, log_gamma, out, m_i, r_i
        _forward[ctx.grid](*tensors, **ctx.layout, OUT=strides(out))
        ctx.save_for_backward(*tensors)
        return out

    @staticmethod
    @differentiable_once
    @without_autocast
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tuple[Any, ...]:
        q, k, v, log_gamma, out, m_i, r_i = ctx.saved_tensors
        grad = dense_channels(grad)
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        delta = torch.empty_like(m_i)
        layout = dict(ctx.layout, GRAD=strides(grad))
        _backward_queries[ctx.grid](
            q, k, v, log_gamma, out, m_i, r_i, grad, delta, grad_q,
            **layout, OUT=strides(out), GRAD_Q=strides(grad_q),
        )  # fmt: skip
        _backward_keys[ctx.grid](
            q, k, v, log_gamma, m_i, r_i, grad, delta, grad_k, grad_v,
            **layout, GRAD_K=strides(grad_k), GRAD_V=strides(grad_v),
        )  # fmt: skip
        return grad_q, grad_k, grad_v, None, None


def _layout(
    q: Tensor, k: Tensor, v: Tensor, width: Optional[int]
) -> Tuple[Tuple[int, int], Dict[str, Any]]:
    """Return the grid, and the keyword arguments that all kernels share."""
    batch, outer, tokens, heads, _ = q.shape
    size = tile(tokens, q, v)
    launch = {}
    if width is None:
        size, launch = min(size, AXIAL_TILE), dict(num_warps=AXIAL_WARPS)
    sizes = dict(heads=heads, tokens=tokens, width=width or 1, AXIAL=width is None, TILE=size)
    # Only the first dimension of a grid may exceed 65,535.
    grid = triton.cdiv(tokens, size) * batch * heads, outer
    return grid, dict(shared_arguments(q, k, v), **sizes, **launch)


@triton.jit
def _rotate_pairs(x, cos, sin):
    """Rotate each pair of neighbouring channels of (tokens, channels) by its angle."""
    tokens: tl.constexpr = x.shape[0]
    channels: tl.constexpr = x.shape[1]
    even, odd = tl.split(tl.reshape(x, (tokens, channels // 2, 2)))
    rotated = tl.join(even * cos - odd * sin, odd * cos + even * sin)
    return tl.reshape(rotated, (tokens, channels))


@triton.jit
def _rotate(
    x, cos_sin, out, X, tokens, heads, dim, sign, DIM: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Rotate some vectors of a sample, counted token by token."""
    sample = tl.program_id(1).to(tl.int64)
    vector = tl.program_id(0) * TILE + tl.arange(0, TILE)
    token, head = vector // heads, vector % heads
    channel, pair = tl.arange(0, DIM), tl.arange(0, DIM // 2)
    exists = (vector < tokens * heads)[:, None]
    inside = exists & (channel < dim)[None, :]
    address = x + sample * X[0] + (token * X[1] + head * X[2])[:, None] + channel[None, :]
    values = tl.load(address, mask=inside, other=0.0)
    angles = cos_sin + token[:, None] * dim + 2 * pair[None, :]
    of_pairs = exists & (pair < dim // 2)[None, :]
    cos = tl.load(angles, mask=of_pairs, other=1.0)
    sin = tl.load(angles + 1, mask=of_pairs, other=0.0) * sign
    rotated = _rotate_pairs(values, cos, sin).to(out.dtype.element_ty)
    into = out + sample * tokens * heads * dim + vector[:, None] * dim + channel[None, :]
    tl.store(into, rotated, mask=inside)


@triton.jit
def _of(x, STRIDES, sample, head):
    """Return the address of one head of the line of this program instance."""
    return x + sample * STRIDES[0] + tl.program_id(1) * STRIDES[1] + head * STRIDES[3]


@triton.jit
def _statistics(sample, head, heads, tokens):
    """Return the offset of the statistics of this program's line."""
    return ((sample * tl.num_programs(1) + tl.program_id(1)) * heads + head) * tokens


@triton.jit
def _read(x, STRIDES, token, tokens, dim, DIM: tl.constexpr):
    """Load vectors of some tokens, (tokens, DIM); 0 beyond the line and its channels."""
    channel = tl.arange(0, DIM)
    inside = (token < tokens)[:, None] & (channel < dim)[None, :]
    return tl.load(x + token[:, None] * STRIDES[2] + channel[None, :], mask=inside, other=0.0)


@triton.jit
def _write(x, values, STRIDES, token, tokens, dim, DIM: tl.constexpr):
    """Store vectors of some tokens in the type of `x`."""
    channel = tl.arange(0, DIM)
    inside = (token < tokens)[:, None] & (channel < dim)[None, :]
    address = x + token[:, None] * STRIDES[2] + channel[None, :]
    tl.store(address, values.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _logits(
    q, k, row, column, tokens, width, scale, slope, AXIAL: tl.constexpr, WIDE: tl.constexpr
):
    """Return logits with their decay, times log2(e); they are -inf beyond the last key."""
    if AXIAL:
        distance = tl.abs(row[:, None] - column[None, :])
    else:
        down = tl.abs((row // width)[:, None] - (column // width)[None, :])
        distance = down + tl.abs((row % width)[:, None] - (column % width)[None, :])
    logits = product(q, tl.trans(k), WIDE) * (scale * LOG2_E) + (slope * LOG2_E) * distance
    return tl.where((column < tokens)[None, :], logits, float('-inf'))


@triton.jit
def _forward(
    q, k, v, log_gamma, out, m_of, r_of,
    Q, K, V, heads, tokens, width, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr, AXIAL: tl.constexpr,
    WIDE: tl.constexpr,
    OUT,
):  # fmt: skip
    """Compute the result of one tile of queries, and the softmax statistics of each."""
    sample, head, row = place_of_tile(heads, tokens, TILE)
    k, v = _of(k, K, sample, head), _of(v, V, sample, head)
    slope = tl.load(log_gamma + head)
    query = _read(_of(q, Q, sample, head), Q, row, tokens, dim, DIM)
    m_i = tl.full((TILE,), float('-inf'), WIDE)
    l_i = tl.zeros((TILE,), WIDE)
    sums = tl.zeros((TILE, CHANNELS), WIDE)
    for start in range(0, tokens, TILE):
        column = start + tl.arange(0, TILE)
        key = _read(k, K, column, tokens, dim, DIM)
        value = _read(v, V, column, tokens, channels, CHANNELS)
        logits = _logits(query, key, row, column, tokens, width, scale, slope, AXIAL, WIDE)
        new = tl.maximum(m_i, tl.max(logits, 1))
        alpha = tl.exp2(m_i - new)
        weights = tl.exp2(logits - new[:, None])
        l_i = l_i * alpha + tl.sum(weights, 1)
        sums = sums * alpha[:, None] + product(weights.to(value.dtype), value, WIDE)
        m_i = new
    out = _of(out, OUT, sample, head)
    _write(out, sums / l_i[:, None], OUT, row, tokens, channels, CHANNELS)
    place = _statistics(sample, head, heads, tokens)
    tl.store(m_of + place + row, m_i, mask=row < tokens)
    tl.store(r_of + place + row, 1 / l_i, mask=row < tokens)


@triton.jit
def _backward_queries(
    q, k, v, log_gamma, out, m_of, r_of, grad, delta, grad_q,
    Q, K, V, heads, tokens, width, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr, AXIAL: tl.constexpr,
    WIDE: tl.constexpr,
    GRAD, OUT, GRAD_Q,
):  # fmt: skip
    """Compute the gradient of a tile of queries, and of each delta, result times gradient."""
    sample, head, row = place_of_tile(heads, tokens, TILE)
    k, v = _of(k, K, sample, head), _of(v, V, sample, head)
    slope = tl.load(log_gamma + head)
    query = _read(_of(q, Q, sample, head), Q, row, tokens, dim, DIM)
    g = _read(_of(grad, GRAD, sample, head), GRAD, row, tokens, channels, CHANNELS)
    o = _read(_of(out, OUT, sample, head), OUT, row, tokens, channels, CHANNELS)
    delta_i = tl.sum(g.to(WIDE) * o.to(WIDE), 1)
    place = _statistics(sample, head, heads, tokens)
    tl.store(delta + place + row, delta_i, mask=row < tokens)
    m_i = tl.load(m_of + place + row, mask=row < tokens, other=0.0)
    r_i = tl.load(r_of + place + row, mask=row < tokens, other=0.0)
    sums = tl.zeros((TILE, DIM), WIDE)
    for start in range(0, tokens, TILE):
        column = start + tl.arange(0, TILE)
        key = _read(k, K, column, tokens, dim, DIM)
        value = _read(v, V, column, tokens, channels, CHANNELS)
        logits = _logits(query, key, row, column, tokens, width, scale, slope, AXIAL, WIDE)
        weights = tl.exp2(logits - m_i[:, None]) * r_i[:, None]
        grad_logits = weights * (product(g, tl.trans(value), WIDE) - delta_i[:, None])
        sums += product(grad_logits.to(key.dtype), key, WIDE)
    _write(_of(grad_q, GRAD_Q, sample, head), sums * scale, GRAD_Q, row, tokens, dim, DIM)


@triton.jit
def _backward_keys(
    q, k, v, log_gamma, m_of, r_of, grad, delta, grad_k, grad_v,
    Q, K, V, heads, tokens, width, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr, AXIAL: tl.constexpr,
    WIDE: tl.constexpr,
    GRAD, GRAD_K, GRAD_V,
):  # fmt: skip
    """Compute the gradients of one tile of keys and values."""
    sample, head, column = place_of_tile(heads, tokens, TILE)
    q, grad = _of(q, Q, sample, head), _of(grad, GRAD, sample, head)
    slope = tl.load(log_gamma + head)
    key = _read(_of(k, K, sample, head), K, column, tokens, dim, DIM)
    value = _read(_of(v, V, sample, head), V, column, tokens, channels, CHANNELS)
    place = _statistics(sample, head, heads, tokens)
    sum_k = tl.zeros((TILE, DIM), WIDE)
    sum_v = tl.zeros((TILE, CHANNELS), WIDE)
    for start in range(0, tokens, TILE):
        row = start + tl.arange(0, TILE)
        query = _read(q, Q, row, tokens, dim, DIM)
        g = _read(grad, GRAD, row, tokens, channels, CHANNELS)
        # Rows beyond the last query have weight 0.
        m_i = tl.load(m_of + place + row, mask=row < tokens, other=float('inf'))
        r_i = tl.load(r_of + place + row, mask=row < tokens, other=0.0)
        delta_i = tl.load(delta + place + row, mask=row < tokens, other=0.0)
        logits = _logits(query, key, row, column, tokens, width, scale, slope, AXIAL, WIDE)
        weights = tl.exp2(logits - m_i[:, None]) * r_i[:, None]
        sum_v += product(tl.trans(weights.to(g.dtype)), g, WIDE)
        grad_logits = weights * (product(g, tl.trans(value), WIDE) - delta_i[:, None])
        sum_k += product(tl.trans(grad_logits.to(query.dtype)), query, WIDE)
    _write(_of(grad_k, GRAD_K, sample, head), sum_k * scale, GRAD_K, column, tokens, dim, DIM)
    into = _of(grad_v, GRAD_V, sample, head)
    _write(into, sum_v, GRAD_V, column, tokens, channels, CHANNELS)
