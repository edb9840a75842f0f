"""MaSA in Triton: queries and keys are rotated once, decay and softmax share a kernel.

Both forms use one kernel over lines of tokens, (B, O, T, n, d). The full form has one line per
sample, all tokens of the map; the axial form has one line per row, then one per column. Columns
are transposed views, so no map is transposed in memory. Powers of 2 replace powers of e, because
GPUs have an instruction for them. The maximum and the inverse sum of each query's softmax are
stored for the backward pass; a logarithm would round the weights of large logits.
"""

from typing import Any, Dict, List, Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ..autograd import differentiable_once, eager_operator, without_autocast
from ..tiles import (
    COMPILED,
    LOG2_E,
    dense_channels,
    empty_gradients,
    padded,
    place_of_tile,
    product,
    read,
    shared_arguments,
    strides,
    tile,
    wide_type,
    write,
)

AXIAL_TILE, AXIAL_WARPS = 32, 2
"""Largest tile along an axis, and its warps: lines are short, and there are many of them."""

ROTATED_TILE = 64
"""Vectors that a program instance rotates."""


@without_autocast
def masa(
    q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, log_gamma: Tensor, axial: bool
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute :func:`mmrest.ops.masa.masa` as an operator, which compiled graphs can contain.

    The tables are ``cos_sin`` and ``log_gamma`` of :class:`.PositionTables`.

    Returns:
        The result, (B, H, W, n, d_v), and for the backward pass, the rotated queries and keys, the
        result of the first axis, and maximum and inverse sum of the softmax along each axis.
    """
    outputs = _outputs(q, k, v, cos_sin, log_gamma, axial)
    out, rotated_q, rotated_k, middle, statistics = outputs
    width, log_gamma = v.shape[2], log_gamma.to(statistics.dtype)
    with torch.cuda.device_of(q):  # where Triton launches kernels
        _launch_rotation(q, k, cos_sin, rotated_q, rotated_k)
        lines = _lines(rotated_q, rotated_k, dense_channels(v), middle, out, axial)
        for (q, k, v, into), (m_i, r_i) in zip(lines, statistics):
            grid, layout = _layout(q, k, v, None if axial else width)
            _forward[grid](q, k, v, log_gamma, into, m_i, r_i, **layout, OUT=strides(into))
    return outputs


def _outputs(
    q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, log_gamma: Tensor, axial: bool
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return uninitialised outputs of :func:`masa` for its arguments."""
    passes = 2 if axial else 1
    return (
        v.new_empty(v.shape),
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape if axial else 0),
        q.new_empty((passes, 2, *q.shape[:-1]), dtype=wide_type(q)[0]),
    )


_operator = torch.library.custom_op('mmrest::masa', masa, mutates_args=())
_operator.register_fake(_outputs)


@torch.library.custom_op('mmrest::masa_backward', mutates_args=())
@without_autocast
def masa_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    middle: Tensor,
    out: Tensor,
    statistics: Tensor,
    cos_sin: Tensor,
    log_gamma: Tensor,
    axial: bool,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v, given the values and the outputs of :func:`masa`."""
    grads = grad_q, grad_k, grad_v = empty_gradients(q, k, v)
    # Before the rotation back: sums of two passes are rounded once, after it.
    wide = statistics.dtype if axial else q.dtype
    dq, dk = torch.empty_like(q, dtype=wide), torch.empty_like(k, dtype=wide)
    grad_middle = torch.empty_like(middle)
    width, log_gamma = v.shape[2], log_gamma.to(statistics.dtype)
    lines = _lines(q, k, dense_channels(v), middle, out, axial)
    grad_lines = _lines(dq, dk, grad_v, grad_middle, dense_channels(grad), axial)
    passes = list(zip(lines, grad_lines, statistics))
    with torch.cuda.device_of(q):
        for index, (inputs, gradients, (m_i, r_i)) in enumerate(reversed(passes)):
            q, k, v, out = inputs
            to_q, to_k, to_v, grad = gradients
            grid, layout = _layout(q, k, v, None if axial else width)
            layout.update(GRAD=strides(grad), ADD=index > 0)
            delta = torch.empty_like(m_i)
            _backward_queries[grid](
                q, k, v, log_gamma, out, m_i, r_i, grad, delta, to_q,
                **layout, OUT=strides(out), GRAD_Q=strides(to_q),
            )  # fmt: skip
            _backward_keys[grid](
                q, k, v, log_gamma, m_i, r_i, grad, delta, to_k, to_v,
                **layout, GRAD_K=strides(to_k), GRAD_V=strides(to_v),
            )  # fmt: skip
        _launch_rotation(dq, dk, cos_sin, grad_q, grad_k, backward=True)
    return grads


@masa_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Any:
    return empty_gradients(q, k, v)


def _save(ctx: FunctionCtx, inputs: Tuple[Any, ...], output: Tuple[Tensor, ...]) -> None:
    _, _, v, cos_sin, log_gamma, ctx.axial = inputs
    out, rotated_q, rotated_k, middle, statistics = output
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(rotated_q, rotated_k, v, middle, out, statistics, cos_sin, log_gamma)


@differentiable_once
def _differentiate(ctx: FunctionCtx, grad: Tensor, *_: None) -> Tuple[Any, ...]:
    if grad is None:  # no gradient reaches the result
        return (None,) * 6
    grads = torch.ops.mmrest.masa_backward(grad, *ctx.saved_tensors, ctx.axial)
    return (*grads, None, None, None)


_operator.register_autograd(_differentiate, setup_context=_save)
run_eagerly = eager_operator(masa, _save, _differentiate)


def _lines(
    q: Tensor, k: Tensor, v: Tensor, middle: Tensor, out: Tensor, axial: bool
) -> List[List[Tensor]]:
    """Return q, k, v and the result of each pass, as lines of tokens (B, O, T, n, d)."""
    if not axial:
        return [[x.flatten(1, 2)[:, None] for x in (q, k, v, out)]]
    return [[q, k, v, middle], [x.transpose(1, 2) for x in (q, k, middle, out)]]


def _launch_rotation(
    q: Tensor, k: Tensor, cos_sin: Tensor, to_q: Tensor, to_k: Tensor, backward: bool = False
) -> None:
    """Rotate two tensors (B, H, W, n, d) by the angles of ``cos_sin``, or back."""
    q, k = (dense_channels(x).flatten(1, 2) for x in (q, k))
    batch, tokens, heads, dim = q.shape
    grid = triton.cdiv(tokens * heads, ROTATED_TILE) * batch, 2
    _rotate[grid](
        q, k, cos_sin.to(wide_type(q)[0]).contiguous(), to_q, to_k, strides(q), strides(k),
        tokens, heads, dim, -1 if backward else 1, DIM=padded(dim), TILE=ROTATED_TILE, **COMPILED,
    )  # fmt: skip


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
    q, k, cos_sin, to_q, to_k, Q, K, tokens, heads, dim, sign, DIM: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Rotate some queries or keys of a sample, counted token by token."""
    if tl.program_id(1) == 0:
        _rotate_tile(q, cos_sin, to_q, Q, tokens, heads, dim, sign, DIM, TILE)
    else:
        _rotate_tile(k, cos_sin, to_k, K, tokens, heads, dim, sign, DIM, TILE)


@triton.jit
def _rotate_tile(
    x, cos_sin, out, X, tokens, heads, dim, sign, DIM: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    tiles = tl.cdiv(tokens * heads, TILE)
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    vector = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    token, head = vector // heads, vector % heads
    channel, pair = tl.arange(0, DIM), tl.arange(0, DIM // 2)
    exists = (vector < tokens * heads)[:, None]
    inside = exists & (channel < dim)[None, :]
    address = x + sample * X[0] + (token * X[1] + head * X[2])[:, None] + channel[None, :]
    values = tl.load(address, mask=inside, other=0.0)
    angles = cos_sin + token[:, None] * dim + 2 * pair[None, :]
    pairs_inside = exists & (pair < dim // 2)[None, :]
    cos = tl.load(angles, mask=pairs_inside, other=1.0)
    sin = tl.load(angles + 1, mask=pairs_inside, other=0.0) * sign
    rotated = _rotate_pairs(values, cos, sin).to(out.dtype.element_ty)
    into = out + sample * tokens * heads * dim + vector[:, None] * dim + channel[None, :]
    tl.store(into, rotated, mask=inside)


@triton.jit
def _line_of(x, STRIDES, sample, head):
    """Return the address of one head of the line of this program instance."""
    return x + sample * STRIDES[0] + tl.program_id(1) * STRIDES[1] + head * STRIDES[3]


@triton.jit
def _statistics_offset(sample, head, heads, tokens):
    """Return the offset of the statistics of this program's line."""
    return ((sample * tl.num_programs(1) + tl.program_id(1)) * heads + head) * tokens


@triton.jit
def _position(token, width):
    """Return row and column of tokens of a map, exact up to 2^20 tokens.

    GPUs have no instruction for integer division.
    """
    y = tl.floor((token.to(tl.float32) + 0.5) * (1.0 / width))
    return y, token.to(tl.float32) - y * width


@triton.jit
def _logits(
    q, k, row, column, tokens, width, scale, slope, AXIAL: tl.constexpr, WIDE: tl.constexpr
):
    """Return logits with their decay, times log2(e); they are -inf beyond the last key."""
    if AXIAL:
        distance = tl.abs(row[:, None] - column[None, :])
    else:
        y, x = _position(row, width)
        y_k, x_k = _position(column, width)
        distance = tl.abs(y[:, None] - y_k[None, :]) + tl.abs(x[:, None] - x_k[None, :])
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
    k, v = _line_of(k, K, sample, head), _line_of(v, V, sample, head)
    slope = tl.load(log_gamma + head)
    query = read(_line_of(q, Q, sample, head), Q[2], row, tokens, dim, DIM)
    m_i = tl.full((TILE,), float('-inf'), WIDE)
    l_i = tl.zeros((TILE,), WIDE)
    sums = tl.zeros((TILE, CHANNELS), WIDE)
    for start in range(0, tokens, TILE):
        column = start + tl.arange(0, TILE)
        key = read(k, K[2], column, tokens, dim, DIM)
        value = read(v, V[2], column, tokens, channels, CHANNELS)
        logits = _logits(query, key, row, column, tokens, width, scale, slope, AXIAL, WIDE)
        new = tl.maximum(m_i, tl.max(logits, 1))
        alpha = tl.exp2(m_i - new)
        weights = tl.exp2(logits - new[:, None])
        l_i = l_i * alpha + tl.sum(weights, 1)
        sums = sums * alpha[:, None] + product(weights.to(value.dtype), value, WIDE)
        m_i = new
    out = _line_of(out, OUT, sample, head)
    write(out, sums / l_i[:, None], OUT[2], row, tokens, channels, CHANNELS)
    offset = _statistics_offset(sample, head, heads, tokens)
    tl.store(m_of + offset + row, m_i, mask=row < tokens)
    tl.store(r_of + offset + row, 1 / l_i, mask=row < tokens)


@triton.jit
def _backward_queries(
    q, k, v, log_gamma, out, m_of, r_of, grad, delta, grad_q,
    Q, K, V, heads, tokens, width, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr, AXIAL: tl.constexpr,
    WIDE: tl.constexpr,
    GRAD, ADD: tl.constexpr,
    OUT, GRAD_Q,
):  # fmt: skip
    """Compute or add to the gradient of a tile of queries; compute each delta.

    Delta is the product of the result and its gradient, summed over the channels.
    """
    sample, head, row = place_of_tile(heads, tokens, TILE)
    k, v = _line_of(k, K, sample, head), _line_of(v, V, sample, head)
    slope = tl.load(log_gamma + head)
    query = read(_line_of(q, Q, sample, head), Q[2], row, tokens, dim, DIM)
    g = read(_line_of(grad, GRAD, sample, head), GRAD[2], row, tokens, channels, CHANNELS)
    o = read(_line_of(out, OUT, sample, head), OUT[2], row, tokens, channels, CHANNELS)
    delta_i = tl.sum(g.to(WIDE) * o.to(WIDE), 1)
    offset = _statistics_offset(sample, head, heads, tokens)
    tl.store(delta + offset + row, delta_i, mask=row < tokens)
    m_i = tl.load(m_of + offset + row, mask=row < tokens, other=0.0)
    r_i = tl.load(r_of + offset + row, mask=row < tokens, other=0.0)
    sums = tl.zeros((TILE, DIM), WIDE)
    for start in range(0, tokens, TILE):
        column = start + tl.arange(0, TILE)
        key = read(k, K[2], column, tokens, dim, DIM)
        value = read(v, V[2], column, tokens, channels, CHANNELS)
        logits = _logits(query, key, row, column, tokens, width, scale, slope, AXIAL, WIDE)
        weights = tl.exp2(logits - m_i[:, None]) * r_i[:, None]
        grad_logits = weights * (product(g, tl.trans(value), WIDE) - delta_i[:, None])
        sums += product(grad_logits.to(key.dtype), key, WIDE)
    into = _line_of(grad_q, GRAD_Q, sample, head)
    write(into, sums * scale, GRAD_Q[2], row, tokens, dim, DIM, ADD)


@triton.jit
def _backward_keys(
    q, k, v, log_gamma, m_of, r_of, grad, delta, grad_k, grad_v,
    Q, K, V, heads, tokens, width, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr, AXIAL: tl.constexpr,
    WIDE: tl.constexpr,
    GRAD, ADD: tl.constexpr,
    GRAD_K, GRAD_V,
):  # fmt: skip
    """Compute or add to the gradient of one tile of keys; compute that of its values."""
    sample, head, column = place_of_tile(heads, tokens, TILE)
    q, grad = _line_of(q, Q, sample, head), _line_of(grad, GRAD, sample, head)
    slope = tl.load(log_gamma + head)
    key = read(_line_of(k, K, sample, head), K[2], column, tokens, dim, DIM)
    value = read(_line_of(v, V, sample, head), V[2], column, tokens, channels, CHANNELS)
    offset = _statistics_offset(sample, head, heads, tokens)
    sum_k = tl.zeros((TILE, DIM), WIDE)
    sum_v = tl.zeros((TILE, CHANNELS), WIDE)
    for start in range(0, tokens, TILE):
        row = start + tl.arange(0, TILE)
        query = read(q, Q[2], row, tokens, dim, DIM)
        g = read(grad, GRAD[2], row, tokens, channels, CHANNELS)
        # Rows beyond the last query have weight 0.
        m_i = tl.load(m_of + offset + row, mask=row < tokens, other=float('inf'))
        r_i = tl.load(r_of + offset + row, mask=row < tokens, other=0.0)
        delta_i = tl.load(delta + offset + row, mask=row < tokens, other=0.0)
        logits = _logits(query, key, row, column, tokens, width, scale, slope, AXIAL, WIDE)
        weights = tl.exp2(logits - m_i[:, None]) * r_i[:, None]
        sum_v += product(tl.trans(weights.to(g.dtype)), g, WIDE)
        grad_logits = weights * (product(g, tl.trans(value), WIDE) - delta_i[:, None])
        sum_k += product(tl.trans(grad_logits.to(query.dtype)), query, WIDE)
    into = _line_of(grad_k, GRAD_K, sample, head)
    write(into, sum_k * scale, GRAD_K[2], column, tokens, dim, DIM, ADD)
    into = _line_of(grad_v, GRAD_V, sample, head)
    write(into, sum_v, GRAD_V[2], column, tokens, channels, CHANNELS)
