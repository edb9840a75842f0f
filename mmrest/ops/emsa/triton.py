"""EMSA in Triton: mix of heads, softmax and instance norm in one kernel.

A program instance computes some rows of the map of one head. Their logits are the sum over all
heads g of ``w[h, g] q_g k_g^T``, so instances are independent. Each reads the keys twice, because
the deviation R = P - 1/M of the softmax P from its mean must be exact before it is squared; a
difference of sums would cancel. The backward pass recomputes the maps from the softmax statistics
of each row, its maximum m and its inverse sum r.
"""

from typing import Any, Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ..autograd import differentiable_once, eager_operator, without_autocast
from ..tiles import (
    LOG2_E,
    dense_channels,
    empty_gradients,
    place_of_tile,
    product,
    read,
    shared_arguments,
    strides,
    tile,
    wide_type,
    write,
)


def warps(capability: int, backward: bool) -> int:
    """Return the warps of a program instance, enough for its tile to fit into their registers.

    On GPUs of compute capability 9.x (Hopper), 4 warps spill few registers in the forward pass; on
    others they spill many.
    """
    return 4 if capability == 9 and not backward else 8


def _warps(x: Tensor, backward: bool) -> dict:
    major = torch.cuda.get_device_capability(x.device)[0] if x.is_cuda else 0
    return dict(num_warps=warps(major, backward))


@without_autocast
def emsa(
    q: Tensor, k: Tensor, v: Tensor, mix_weight: Tensor, mix_bias: Optional[Tensor], eps: float
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute :func:`mmrest.ops.emsa.emsa` over several heads, as an operator.

    Returns:
        The result, (B, n, N, d_v), and for the backward pass, for each row of the maps, maximum
        and inverse sum of its softmax and the sum of its squared deviations; (B, n, N) each.
    """
    outputs = out, m_i, r_i, squares = _outputs(q, k, v)
    q, k, v = map(dense_channels, (q, k, v))
    heads, queries = q.shape[1:3]
    keys = k.shape[2]
    mix = mix_weight.reshape(heads, heads).to(m_i.dtype).contiguous()
    sums = torch.empty(out.shape, dtype=m_i.dtype, device=q.device)
    layout = dict(_layout(q, k, v), **_warps(q, False))
    with torch.cuda.device_of(q):  # where Triton launches kernels
        _forward[_grid(queries, q, v)](q, k, v, mix, sums, m_i, r_i, squares, **layout)
    variance = squares.sum(-1) / (queries * keys)
    torch.mul(sums, torch.rsqrt(variance + eps * keys**2)[..., None, None], out=out)
    return outputs


def _outputs(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return uninitialised outputs of :func:`emsa` for its arguments."""
    batch, heads, queries, _ = q.shape
    statistics = (q.new_empty(q.shape[:-1], dtype=wide_type(q)[0]) for _ in range(3))
    # Heads are adjacent for each token, as the output projection expects them.
    return (v.new_empty(batch, queries, heads, v.shape[-1]).transpose(1, 2), *statistics)


_operator = torch.library.custom_op('mmrest::emsa', emsa, mutates_args=())
_operator.register_fake(_outputs)


@torch.library.custom_op('mmrest::emsa_backward', mutates_args=())
@without_autocast
def emsa_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor,
    out: Tensor,
    m_i: Tensor,
    r_i: Tensor,
    squares: Tensor,
    eps: float,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and mix_weight from inputs and outputs of :func:`emsa`."""
    q, k, v, grad = map(dense_channels, (q, k, v, grad))
    batch, heads, queries, dim = q.shape
    keys, wide = k.shape[2], r_i.dtype
    mix = mix_weight.reshape(heads, heads).to(wide).contiguous()

    factor = torch.rsqrt(squares.sum(-1) / (queries * keys) + eps * keys**2) * keys
    by_token = (grad.to(wide) * out).sum(-1)
    norm_term = by_token.sum(-1) * factor**2 / (queries * keys)
    norm_term /= keys
    # The backward pass of the softmax subtracts the sum of softmax times gradient from each row.
    # No map is needed: P (v - mean of v) is the result, and the sums of P R and R^2 are equal.
    # The mean has no effect in exact arithmetic; without it, large numbers would cancel.
    mean = v.mean(2, dtype=wide)
    delta = by_token - (norm_term / keys)[..., None] * squares

    pair_grads = q.new_zeros((batch, heads, *q.shape[1:]), dtype=wide)
    shared = (q, k, v, mix, grad, m_i, r_i, delta, factor, norm_term, mean)
    layout = dict(_layout(q, k, v), GRAD=strides(grad), **_warps(q, True))
    with torch.cuda.device_of(q):
        _backward_queries[_grid(queries, q, v)](*shared, pair_grads, **layout)
    scaled = mix * dim**-0.5
    grad_q = torch.einsum('hg,bhgnd->bgnd', scaled, pair_grads).to(q.dtype).contiguous()
    # An einsum would be a matrix-vector product, which leaves most of a GPU idle.
    grad_weight = (q.to(wide)[:, None] * pair_grads).sum((0, 3, 4)) * dim**-0.5
    grad_weight = grad_weight.to(mix_weight.dtype).view_as(mix_weight)

    pair_grads = k.new_zeros((batch, heads, *k.shape[1:]), dtype=wide)
    (grad_v,) = empty_gradients(v)
    layout.update(GRAD_V=strides(grad_v))
    with torch.cuda.device_of(q):
        _backward_keys[_grid(keys, q, v)](*shared, pair_grads, grad_v, **layout)
    grad_k = torch.einsum('hg,bhgnd->bgnd', scaled, pair_grads).to(k.dtype).contiguous()
    return grad_q, grad_k, grad_v, grad_weight


@emsa_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mix_weight: Tensor, *_: Any) -> Any:
    return empty_gradients(q, k, v, mix_weight)


def _save(ctx: FunctionCtx, inputs: Tuple[Any, ...], output: Tuple[Tensor, ...]) -> None:
    q, k, v, mix_weight, mix_bias, ctx.eps = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.has_bias = mix_bias is not None
    ctx.save_for_backward(q, k, v, mix_weight, *output)


@differentiable_once
def _differentiate(ctx: FunctionCtx, grad: Tensor, *_: None) -> Tuple[Any, ...]:
    if grad is None:  # no gradient reaches the result
        return (None,) * 6
    grads = torch.ops.mmrest.emsa_backward(grad, *ctx.saved_tensors, ctx.eps)
    grad_bias = grads[3].new_zeros(len(grads[3])) if ctx.has_bias else None
    return (*grads, grad_bias, None)


_operator.register_autograd(_differentiate, setup_context=_save)
run_eagerly = eager_operator(emsa, _save, _differentiate)


def _grid(tokens: int, q: Tensor, v: Tensor) -> Tuple[int]:
    # Only the first dimension of a grid may exceed 65,535.
    return (triton.cdiv(tokens, tile(tokens, q, v)) * q.shape[0] * q.shape[1],)


def _layout(q: Tensor, k: Tensor, v: Tensor) -> dict:
    """Return the keyword arguments that all kernels share."""
    heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
    rows, columns = tile(queries, q, v), tile(keys, q, v)
    sizes = dict(heads=heads, queries=queries, keys=keys, ROWS=rows, COLUMNS=columns)
    return dict(shared_arguments(q, k, v), **sizes)


@triton.jit
def _read_centred(x, stride, mean, token, tokens, dim, DIM: tl.constexpr):
    """Load vectors of some tokens, minus the mean of all tokens."""
    values = read(x, stride, token, tokens, dim, DIM)
    channel = tl.arange(0, DIM)
    return (values - tl.load(mean + channel, mask=channel < dim, other=0.0)).to(values.dtype)


@triton.jit
def _mixed_logits(
    q, Q, k, K, mix, head, row, column, heads, queries, keys, dim, scale,
    DIM: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return the mixed logits of a head; they are -inf beyond the last key."""
    logits = tl.zeros((row.shape[0], column.shape[0]), WIDE)
    for other in range(heads):
        query = read(q + other * Q[1], Q[2], row, queries, dim, DIM)
        key = read(k + other * K[1], K[2], column, keys, dim, DIM)
        weight = tl.load(mix + head * heads + other)
        logits += weight * product(query, tl.trans(key), WIDE)
    return tl.where((column < keys)[None, :], logits * (scale * LOG2_E), float('-inf'))


@triton.jit
def _forward(
    q, k, v, mix, sums, m_of, r_of, squares,
    Q, K, V, heads, queries, keys, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Compute M R v of one tile of rows, and m, r and the sum of (M R)^2 of each row."""
    sample, head, row = place_of_tile(heads, queries, ROWS)
    q, k = q + sample * Q[0], k + sample * K[0]
    v += sample * V[0] + head * V[1]
    offset = (sample * heads + head) * queries
    m_i = tl.full((ROWS,), float('-inf'), WIDE)
    l_i = tl.zeros((ROWS,), WIDE)
    for start in range(0, keys, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        logits = _mixed_logits(
            q, Q, k, K, mix, head, row, column, heads, queries, keys, dim, scale, DIM, WIDE
        )
        new = tl.maximum(m_i, tl.max(logits, 1))
        l_i = l_i * tl.exp2(m_i - new) + tl.sum(tl.exp2(logits - new[:, None]), 1)
        m_i = new
    tl.store(m_of + offset + row, m_i, mask=row < queries)
    tl.store(r_of + offset + row, 1 / l_i, mask=row < queries)
    square = tl.zeros((ROWS,), WIDE)
    product_sums = tl.zeros((ROWS, CHANNELS), WIDE)
    for start in range(0, keys, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        logits = _mixed_logits(
            q, Q, k, K, mix, head, row, column, heads, queries, keys, dim, scale, DIM, WIDE
        )
        # In units of 1 / M, so that half precision does not lose small deviations.
        deviation = tl.exp2(logits - m_i[:, None]) * (keys / l_i)[:, None] - 1
        deviation = tl.where((column < keys)[None, :], deviation, 0.0)
        square += tl.sum(deviation * deviation, 1)
        value = read(v, V[2], column, keys, channels, CHANNELS)
        product_sums += product(deviation.to(value.dtype), value, WIDE)
    tl.store(squares + offset + row, square, mask=row < queries)
    write(sums + offset * channels, product_sums, channels, row, queries, channels, CHANNELS)


@triton.jit
def _map_and_gradient(logits, m_i, r_i, gradient, factor, norm_term, delta, keys):
    """Return R of a tile, in units of 1 / M, and the gradient of its mixed logits."""
    softmax = tl.exp2(logits - m_i[:, None]) * r_i[:, None]
    deviation = keys * softmax - 1
    of_softmax = factor * gradient - norm_term * deviation
    return deviation, softmax * (of_softmax - delta[:, None])


@triton.jit
def _backward_queries(
    q, k, v, mix, grad, m_of, r_of, delta, factor, norm_term, mean, pair_grads,
    Q, K, V, heads, queries, keys, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    GRAD,
):  # fmt: skip
    """Multiply a tile's gradient of the logits by the keys of every head, to (B, h, g, N, d)."""
    sample, head, row = place_of_tile(heads, queries, ROWS)
    q, k = q + sample * Q[0], k + sample * K[0]
    v += sample * V[0] + head * V[1]
    grad += sample * GRAD[0] + head * GRAD[1]
    place = sample * heads + head
    g = read(grad, GRAD[2], row, queries, channels, CHANNELS)
    m_i = tl.load(m_of + place * queries + row, mask=row < queries, other=float('inf'))
    r_i = tl.load(r_of + place * queries + row, mask=row < queries, other=1.0)
    delta_i = tl.load(delta + place * queries + row, mask=row < queries, other=0.0)
    factor_i, norm_term_i = tl.load(factor + place), tl.load(norm_term + place)
    for start in range(0, keys, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        logits = _mixed_logits(
            q, Q, k, K, mix, head, row, column, heads, queries, keys, dim, scale, DIM, WIDE
        )
        value = _read_centred(v, V[2], mean + place * channels, column, keys, channels, CHANNELS)
        gradient = product(g, tl.trans(value), WIDE)
        _, grad_logits = _map_and_gradient(
            logits, m_i, r_i, gradient, factor_i, norm_term_i, delta_i, keys
        )
        for other in range(heads):
            key = read(k + other * K[1], K[2], column, keys, dim, DIM)
            into = pair_grads + (place * heads + other) * queries * dim
            by_key = product(grad_logits.to(key.dtype), key, WIDE)
            write(into, by_key, dim, row, queries, dim, DIM, ADD=True)
        tl.debug_barrier()  # the next round may add to the same addresses from other threads


@triton.jit
def _backward_keys(
    q, k, v, mix, grad, m_of, r_of, delta, factor, norm_term, mean, pair_grads, grad_v,
    Q, K, V, heads, queries, keys, dim, channels, scale,
    DIM: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    GRAD, GRAD_V,
):  # fmt: skip
    """Multiply the same gradient by the queries, to (B, h, g, M, d); compute a tile of grad_v."""
    sample, head, column = place_of_tile(heads, keys, COLUMNS)
    q, k = q + sample * Q[0], k + sample * K[0]
    v += sample * V[0] + head * V[1]
    grad += sample * GRAD[0] + head * GRAD[1]
    grad_v += sample * GRAD_V[0] + head * GRAD_V[1]
    place = sample * heads + head
    value = _read_centred(v, V[2], mean + place * channels, column, keys, channels, CHANNELS)
    factor_i, norm_term_i = tl.load(factor + place), tl.load(norm_term + place)
    sum_v = tl.zeros((COLUMNS, CHANNELS), WIDE)
    for start in range(0, queries, ROWS):
        row = start + tl.arange(0, ROWS)
        logits = _mixed_logits(
            q, Q, k, K, mix, head, row, column, heads, queries, keys, dim, scale, DIM, WIDE
        )
        g = read(grad, GRAD[2], row, queries, channels, CHANNELS)
        # Rows beyond the last query have a softmax and a gradient of 0.
        m_i = tl.load(m_of + place * queries + row, mask=row < queries, other=float('inf'))
        r_i = tl.load(r_of + place * queries + row, mask=row < queries, other=1.0)
        delta_i = tl.load(delta + place * queries + row, mask=row < queries, other=0.0)
        gradient = product(g, tl.trans(value), WIDE)
        deviation, grad_logits = _map_and_gradient(
            logits, m_i, r_i, gradient, factor_i, norm_term_i, delta_i, keys
        )
        sum_v += product(tl.trans(deviation.to(g.dtype)), g, WIDE)
        for other in range(heads):
            query = read(q + other * Q[1], Q[2], row, queries, dim, DIM)
            into = pair_grads + (place * heads + other) * keys * dim
            by_query = product(tl.trans(grad_logits.to(query.dtype)), query, WIDE)
            write(into, by_query, dim, column, keys, dim, DIM, ADD=True)
        tl.debug_barrier()  # the next round may add to the same addresses from other threads
    write(grad_v, sum_v * (factor_i / keys), GRAD_V[2], column, keys, channels, CHANNELS)
