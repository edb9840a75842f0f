"""MaSA in Triton: rotation, decay and softmax in one kernel.

Both forms are one computation over maps of Y x X tokens. The full form has one map per sample,
the axial form one per row (Y = 1) and then one per column (X = 1): views of (B, H, W, n, d) with
six dimensions (B, O, Y, X, n, d), so that no map is transposed in memory.
"""

from typing import Any, Tuple

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
    product,
    rotate_pairs,
    shared_arguments,
    strides,
    tile,
    wide_type,
)
from .tables import PositionTables


def masa_full_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return full MaSA; see :func:`mmrest.ops.masa.masa`."""
    maps = [x[:, None] for x in (q, k, v)]
    with on_device_of(q):
        return _MaSA.apply(*maps, tables.cos_sin[None], tables.log_gamma)[:, 0]


def masa_axial_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return axial MaSA; see :func:`mmrest.ops.masa.masa`."""
    cos_sin, log_gamma = tables.cos_sin, tables.log_gamma
    with on_device_of(q):
        rows = [x[:, :, None] for x in (q, k, v)]
        v = _MaSA.apply(*rows, cos_sin[:, None], log_gamma)[:, :, 0]
        columns = [x.transpose(1, 2).unsqueeze(3) for x in (q, k, v)]
        out = _MaSA.apply(*columns, cos_sin.transpose(0, 1).unsqueeze(2), log_gamma)
    return out.squeeze(3).transpose(1, 2)


class _MaSA(Function):
    """``softmax(rotated q rotated k^T / sqrt(d) + log decay) v`` over maps of Y x X tokens."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, log_gamma: Tensor
    ) -> Tensor:
        q, k, v = map(dense_channels, (q, k, v))
        wide = wide_type(q)[0]
        cos_sin, log_gamma = cos_sin.to(wide), log_gamma.to(wide)
        out = torch.empty_like(v)  # with the strides of the values, transposed views too
        outer, tokens, heads = _sizes(q)
        m_i, l_i = (q.new_empty((len(q), outer, heads, tokens), dtype=wide) for _ in range(2))
        tensors = q, k, v, cos_sin, log_gamma, out, m_i, l_i
        _forward[_grid(q, v)](*tensors, **_layout(q, k, v, cos_sin), OUT=strides(out))
        ctx.save_for_backward(*tensors)
        return out

    @staticmethod
    @differentiable_once
    @without_autocast
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tuple[Any, ...]:
        q, k, v, cos_sin, log_gamma, out, m_i, l_i = ctx.saved_tensors
        grad = dense_channels(grad)
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        delta = torch.empty_like(l_i)
        layout = dict(_layout(q, k, v, cos_sin), GRAD=strides(grad))
        _backward_queries[_grid(q, v)](
            q, k, v, cos_sin, log_gamma, out, m_i, l_i, grad, delta, grad_q,
            **layout, OUT=strides(out), GRAD_Q=strides(grad_q),
        )  # fmt: skip
        _backward_keys[_grid(q, v)](
            q, k, v, cos_sin, log_gamma, m_i, l_i, grad, delta, grad_k, grad_v,
            **layout, GRAD_K=strides(grad_k), GRAD_V=strides(grad_v),
        )  # fmt: skip
        return grad_q, grad_k, grad_v, None, None


def _sizes(q: Tensor) -> Tuple[int, int, int]:
    """Return maps per sample, tokens per map, heads."""
    _, outer, height, width, heads, _ = q.shape
    return outer, height * width, heads


def _grid(q: Tensor, v: Tensor) -> Tuple[int, int, int]:
    outer, tokens, heads = _sizes(q)
    return triton.cdiv(tokens, tile(tokens, q, v)), outer, len(q) * heads


def _layout(q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> dict:
    """Return the keyword arguments that all kernels share."""
    _, tokens, heads = _sizes(q)
    sizes = dict(heads=heads, tokens=tokens, width=q.shape[3], TILE=tile(tokens, q, v))
    # With strides for sample and head, for all of which the angles are the same.
    return dict(shared_arguments(q, k, v), **sizes, COS_SIN=(0, *cos_sin.stride()[:-2], 0))


@triton.jit
def _of(x, STRIDES, sample, outer, head):
    """Return the address of one map of one head."""
    return x + sample * STRIDES[0] + outer * STRIDES[1] + head * STRIDES[4]


@triton.jit
def _addresses(x, STRIDES, token, width, channel):
    """Return the addresses of (tokens, channels) in a map, the tokens counted row by row."""
    place = (token // width) * STRIDES[2] + (token % width) * STRIDES[3]
    return x + place[:, None] + channel[None, :]


@triton.jit
def _read(x, STRIDES, token, tokens, width, dim, DIM: tl.constexpr):
    """Load vectors of some tokens, (tokens, DIM); 0 beyond the map and its channels."""
    channel = tl.arange(0, DIM)
    inside = (token < tokens)[:, None] & (channel < dim)[None, :]
    return tl.load(_addresses(x, STRIDES, token, width, channel), mask=inside, other=0.0)


@triton.jit
def _write(x, values, STRIDES, token, tokens, width, dim, DIM: tl.constexpr):
    """Store vectors of some tokens in the type of `x`."""
    channel = tl.arange(0, DIM)
    inside = (token < tokens)[:, None] & (channel < dim)[None, :]
    address = _addresses(x, STRIDES, token, width, channel)
    tl.store(address, values.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _read_cos_sin(cos_sin, COS_SIN, token, tokens, width, dim, DIM: tl.constexpr):
    """Load cosines and sines of some tokens, (tokens, DIM / 2) each."""
    pair = tl.arange(0, DIM // 2)
    inside = (token < tokens)[:, None] & (pair < dim // 2)[None, :]
    address = _addresses(cos_sin, COS_SIN, token, width, 2 * pair)
    return tl.load(address, mask=inside, other=1.0), tl.load(address + 1, mask=inside, other=0.0)


@triton.jit
def _read_rotated(x, STRIDES, cos_sin, COS_SIN, token, tokens, width, dim, DIM: tl.constexpr):
    """Load queries or keys of some tokens and rotate them, in their own type."""
    values = _read(x, STRIDES, token, tokens, width, dim, DIM)
    cos, sin = _read_cos_sin(cos_sin, COS_SIN, token, tokens, width, dim, DIM)
    return rotate_pairs(values, cos, sin).to(values.dtype)


@triton.jit
def _logits(q, k, row, column, tokens, width, scale, slope, WIDE: tl.constexpr):
    """Return logits with their decay; they are -inf beyond the last key."""
    down = tl.abs((row // width)[:, None] - (column // width)[None, :])
    across = tl.abs((row % width)[:, None] - (column % width)[None, :])
    logits = product(q, tl.trans(k), WIDE) * scale + slope * (down + across)
    return tl.where((column < tokens)[None, :], logits, float('-inf'))


@triton.jit
def _forward(
    q, k, v, cos_sin, log_gamma, out, m_of, l_of,
    Q, K, V, COS_SIN, heads, tokens, width, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr,
    OUT,
):  # fmt: skip
    """Compute the result of one tile of queries, and the softmax statistics m and l of each."""
    sample = tl.program_id(2).to(tl.int64) // heads
    head = tl.program_id(2) % heads
    outer = tl.program_id(1)
    q = _of(q, Q, sample, outer, head)
    k = _of(k, K, sample, outer, head)
    v = _of(v, V, sample, outer, head)
    out = _of(out, OUT, sample, outer, head)
    cos_sin += outer * COS_SIN[1]
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    slope = tl.load(log_gamma + head)
    query = _read_rotated(q, Q, cos_sin, COS_SIN, row, tokens, width, dim, DIM)
    m_i = tl.full((TILE,), float('-inf'), WIDE)
    l_i = tl.zeros((TILE,), WIDE)
    sums = tl.zeros((TILE, CHANNELS), WIDE)
    for start in range(0, tokens, TILE):
        column = start + tl.arange(0, TILE)
        key = _read_rotated(k, K, cos_sin, COS_SIN, column, tokens, width, dim, DIM)
        value = _read(v, V, column, tokens, width, channels, CHANNELS)
        logits = _logits(query, key, row, column, tokens, width, scale, slope, WIDE)
        new = tl.maximum(m_i, tl.max(logits, 1))
        alpha = tl.exp(m_i - new)
        weights = tl.exp(logits - new[:, None])
        l_i = l_i * alpha + tl.sum(weights, 1)
        sums = sums * alpha[:, None] + product(weights.to(value.dtype), value, WIDE)
        m_i = new
    _write(out, sums / l_i[:, None], OUT, row, tokens, width, channels, CHANNELS)
    place = ((sample * tl.num_programs(1) + outer) * heads + head) * tokens
    tl.store(m_of + place + row, m_i, mask=row < tokens)
    tl.store(l_of + place + row, l_i, mask=row < tokens)


@triton.jit
def _backward_queries(
    q, k, v, cos_sin, log_gamma, out, m_of, l_of, grad, delta, grad_q,
    Q, K, V, COS_SIN, heads, tokens, width, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr,
    GRAD, OUT, GRAD_Q,
):  # fmt: skip
    """Compute the gradient of one tile of queries, and delta, result times gradient, of each."""
    sample = tl.program_id(2).to(tl.int64) // heads
    head = tl.program_id(2) % heads
    outer = tl.program_id(1)
    q = _of(q, Q, sample, outer, head)
    k = _of(k, K, sample, outer, head)
    v = _of(v, V, sample, outer, head)
    out = _of(out, OUT, sample, outer, head)
    grad = _of(grad, GRAD, sample, outer, head)
    grad_q = _of(grad_q, GRAD_Q, sample, outer, head)
    cos_sin += outer * COS_SIN[1]
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    slope = tl.load(log_gamma + head)
    query = _read_rotated(q, Q, cos_sin, COS_SIN, row, tokens, width, dim, DIM)
    g = _read(grad, GRAD, row, tokens, width, channels, CHANNELS)
    o = _read(out, OUT, row, tokens, width, channels, CHANNELS)
    delta_i = tl.sum(g.to(WIDE) * o.to(WIDE), 1)
    place = ((sample * tl.num_programs(1) + outer) * heads + head) * tokens
    tl.store(delta + place + row, delta_i, mask=row < tokens)
    m_i = tl.load(m_of + place + row, mask=row < tokens, other=0.0)
    l_i = tl.load(l_of + place + row, mask=row < tokens, other=1.0)
    sums = tl.zeros((TILE, DIM), WIDE)
    for start in range(0, tokens, TILE):
        column = start + tl.arange(0, TILE)
        key = _read_rotated(k, K, cos_sin, COS_SIN, column, tokens, width, dim, DIM)
        value = _read(v, V, column, tokens, width, channels, CHANNELS)
        logits = _logits(query, key, row, column, tokens, width, scale, slope, WIDE)
        weights = tl.exp(logits - m_i[:, None]) / l_i[:, None]
        grad_logits = weights * (product(g, tl.trans(value), WIDE) - delta_i[:, None])
        sums += product(grad_logits.to(key.dtype), key, WIDE)
    cos, sin = _read_cos_sin(cos_sin, COS_SIN, row, tokens, width, dim, DIM)
    sums = rotate_pairs(sums * scale, cos, -sin)
    _write(grad_q, sums, GRAD_Q, row, tokens, width, dim, DIM)


@triton.jit
def _backward_keys(
    q, k, v, cos_sin, log_gamma, m_of, l_of, grad, delta, grad_k, grad_v,
    Q, K, V, COS_SIN, heads, tokens, width, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr,
    GRAD, GRAD_K, GRAD_V,
):  # fmt: skip
    """Compute the gradients of one tile of keys and values."""
    sample = tl.program_id(2).to(tl.int64) // heads
    head = tl.program_id(2) % heads
    outer = tl.program_id(1)
    q = _of(q, Q, sample, outer, head)
    k = _of(k, K, sample, outer, head)
    v = _of(v, V, sample, outer, head)
    grad = _of(grad, GRAD, sample, outer, head)
    grad_k = _of(grad_k, GRAD_K, sample, outer, head)
    grad_v = _of(grad_v, GRAD_V, sample, outer, head)
    cos_sin += outer * COS_SIN[1]
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    slope = tl.load(log_gamma + head)
    key = _read_rotated(k, K, cos_sin, COS_SIN, column, tokens, width, dim, DIM)
    value = _read(v, V, column, tokens, width, channels, CHANNELS)
    place = ((sample * tl.num_programs(1) + outer) * heads + head) * tokens
    sum_k = tl.zeros((TILE, DIM), WIDE)
    sum_v = tl.zeros((TILE, CHANNELS), WIDE)
    for start in range(0, tokens, TILE):
        row = start + tl.arange(0, TILE)
        query = _read_rotated(q, Q, cos_sin, COS_SIN, row, tokens, width, dim, DIM)
        g = _read(grad, GRAD, row, tokens, width, channels, CHANNELS)
        # Rows beyond the last query weigh nothing.
        m_i = tl.load(m_of + place + row, mask=row < tokens, other=float('inf'))
        l_i = tl.load(l_of + place + row, mask=row < tokens, other=1.0)
        delta_i = tl.load(delta + place + row, mask=row < tokens, other=0.0)
        logits = _logits(query, key, row, column, tokens, width, scale, slope, WIDE)
        weights = tl.exp(logits - m_i[:, None]) / l_i[:, None]
        sum_v += product(tl.trans(weights.to(g.dtype)), g, WIDE)
        grad_logits = weights * (product(g, tl.trans(value), WIDE) - delta_i[:, None])
        sum_k += product(tl.trans(grad_logits.to(query.dtype)), query, WIDE)
    cos, sin = _read_cos_sin(cos_sin, COS_SIN, column, tokens, width, dim, DIM)
    sum_k = rotate_pairs(sum_k * scale, cos, -sin)
    _write(grad_k, sum_k, GRAD_K, column, tokens, width, dim, DIM)
    _write(grad_v, sum_v, GRAD_V, column, tokens, width, channels, CHANNELS)
