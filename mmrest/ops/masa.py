"""Manhattan self-attention of RMT, after the projections.

A token at (y, x) weighs one at (y', x') by ``gamma^(|y - y'| + |x - x'|)``. The released networks
add the logarithm of that decay to the logits before the softmax, and so do these functions.
Because the distance is a sum, the decay is kept as two small tables, one an axis.
"""

from typing import Iterator, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from .autocast import autocast_off, without_autocast
from .backend import Implementation, Operation, always, refuse_in_graphs

BLOCK_ELEMENTS = 2**18
"""Elements of the block of maps that is computed at once: a megabyte, which caches hold."""


class PositionTables(NamedTuple):
    """Everything of MaSA that depends on positions alone; see :func:`position_tables`."""

    sin: Tensor  # H W d
    cos: Tensor  # H W d
    turn: Tensor  # H W d/2 2, real and imaginary part of cos + i sin
    decay_h: Tensor  # n H H, logarithms
    decay_w: Tensor  # n W W


def position_tables(
    frequencies: Tensor, log_gamma: Tensor, height: int, width: int
) -> PositionTables:
    """Tables of a map of `height` x `width` tokens.

    Args:
        frequencies: radians a position, (d / 2,).
        log_gamma: logarithm of the decay a step of each head, (n,).
        height: rows.
        width: columns.
    """
    sin, cos = (
        t.unflatten(0, (height, width)) for t in rotary_tables(frequencies, height * width)
    )
    return PositionTables(
        sin,
        cos,
        torch.stack((cos[..., ::2], sin[..., ::2]), dim=-1),
        decay_table(log_gamma, height),
        decay_table(log_gamma, width),
    )


def decay_table(log_gamma: Tensor, length: int) -> Tensor:
    """Logarithm of the decay between the positions of one axis.

    Args:
        log_gamma: log(gamma) of each head, (n,).
        length: number of positions.

    Returns:
        (n, length, length), ``log_gamma * |i - j|``.
    """
    position = torch.arange(length, device=log_gamma.device)
    distance = (position[:, None] - position[None, :]).abs()
    return log_gamma[:, None, None] * distance


def rotary_tables(frequencies: Tensor, tokens: int) -> Tuple[Tensor, Tensor]:
    """Sine and cosine of ``position * frequency``.

    Args:
        frequencies: radians a position, (d / 2,).
        tokens: number of positions.

    Returns:
        Sine and cosine, (tokens, d) each: neighbouring channels share a frequency.
    """
    position = torch.arange(tokens, device=frequencies.device, dtype=frequencies.dtype)
    angle = position[:, None] * frequencies.repeat_interleave(2)
    return angle.sin(), angle.cos()


def masa(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables, axial: bool) -> Tensor:
    """Manhattan self-attention (RMT, "Manhattan Self-Attention").

    Queries and keys are rotated by the angle of their token, then
    ``softmax(q k^T / sqrt(d) + log decay) v``. The full form goes over all tokens of the map. The
    axial one goes along the width and, on its result, along the height; the same queries and
    keys serve both ("Decomposed Manhattan Self-Attention").

    Rotation, decay and softmax are computed in the wider of the tables' and the inputs' types.
    See :mod:`mmrest.ops.backend` for how the implementation is chosen.

    Args:
        q: queries, (B, H, W, n, d).
        k: keys, (B, H, W, n, d).
        v: values, (B, H, W, n, d_v).
        tables: of (H, W), as :func:`position_tables` makes them; they get no gradient.
        axial: along the two axes in turn, rather than over all tokens.

    Returns:
        (B, H, W, n, d_v), in the type of `v`.

    Raises:
        ValueError: a forced backend cannot run.
    """
    return (_axial if axial else _full)(q, k, v, tables)


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


def masa_full_reference(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Plain form of full :func:`masa`, with the whole maps and the decay in memory."""
    height, width = v.shape[1:3]
    q, k = _rotated(q, k, tables)
    decay = tables.decay_h[:, :, None, :, None] + tables.decay_w[:, None, :, None, :]
    decay = decay.reshape(-1, height * width, height * width)
    q, k, tokens = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # B n HW d
    return _decayed_attention(q, k, tokens, decay).transpose(1, 2).reshape(v.shape)


def masa_axial_reference(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Plain form of axial :func:`masa`, with all maps of an axis in memory."""
    q, k = _rotated(q, k, tables)
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))  # B H n W d
    v = _decayed_attention(q, k, v, tables.decay_w)
    q, k, v = (x.permute(0, 3, 2, 1, 4) for x in (q, k, v))  # B W n H d
    return _decayed_attention(q, k, v, tables.decay_h).permute(0, 3, 1, 2, 4)


def _rotated(q: Tensor, k: Tensor, tables: PositionTables) -> Tuple[Tensor, Tensor]:
    """Rotated queries, and keys scaled and rotated, as the released code does it."""
    sin, cos = tables.sin[:, :, None], tables.cos[:, :, None]
    return rotate(q, sin, cos), rotate(k * k.shape[-1] ** -0.5, sin, cos)


def _decayed_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """``softmax(q k^T + decay) v`` for (..., n, L, d) and (n, L, L).

    The decay is a float32 table, so that logits and softmax are at least float32 too.
    """
    attention = (q @ k.transpose(-2, -1) + decay).softmax(-1)
    return attention.to(v.dtype) @ v


def masa_full_blocked(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Full :func:`masa` in memory linear in H W: some rows of the image's queries at a time.

    The decay of a block is made where it is used, and the backward pass makes the blocks again.
    """
    q, k = _Rotate.apply(q, tables.turn), _Rotate.apply(k, tables.turn)
    return _BlockedFull.apply(q, k, v, tables.decay_h, tables.decay_w)


def masa_axial_fused(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Axial :func:`masa` through torch's fused attention, which stores no map."""
    q, k = _Rotate.apply(q, tables.turn), _Rotate.apply(k, tables.turn)
    with autocast_off(q.device):
        v = _fused_attention(q, k, v, tables.decay_w)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B W H n d
        return _fused_attention(q, k, v, tables.decay_h).transpose(1, 2)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(d) + decay) v`` along the third dimension of (B, P, L, n, d)."""
    mask = decay[None].to(q.dtype)
    # torch's fused attention takes a single batch dimension, and to join the first two would
    # copy all three maps where they are transposed.
    samples = [
        F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in sample), attn_mask=mask
        ).transpose(1, 2)
        for sample in zip(q, k, v)
    ]
    if len(samples) == 1:
        return samples[0][None]
    return torch.stack(samples) if samples else torch.empty_like(v)


class _Rotate(Function):
    """:func:`rotate` as a product of complex numbers: one pass, and no copy for the backward."""

    @staticmethod
    @without_autocast
    def forward(ctx: FunctionCtx, x: Tensor, turn: Tensor) -> Tensor:
        ctx.save_for_backward(turn)
        return _turned(x, torch.view_as_complex(turn))

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tuple[Tensor, None]:
        (turn,) = ctx.saved_tensors
        return _turned(grad, torch.view_as_complex(turn).conj()), None


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """`x` (B, H, W, n, d) with its pairs of channels times the complex (H, W, d / 2)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    pairs = torch.view_as_complex(x.to(wide).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn[:, :, None]).flatten(-2).to(x.dtype)


class _BlockedFull(Function):
    """``softmax(q k^T / sqrt(d) + decay) v`` of rotated queries and keys, block by block."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, decay_h: Tensor, decay_w: Tensor
    ) -> Tensor:
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        for b in range(len(q)):
            queries, into = _by_head(q[b]), _by_head(out[b])
            keys_t, values = _flat(k[b]).transpose(1, 2).contiguous(), _flat(v[b])
            for heads, rows in _blocks(*q.shape[1:4]):
                softmax = _softmax_of_decayed(
                    queries[heads, rows], keys_t[heads], decay_h[heads, rows], decay_w[heads]
                )
                product = softmax @ values[heads]
                into[heads, rows] = product.view_as(into[heads, rows])
        ctx.save_for_backward(q, k, v, decay_h, decay_w)
        return out

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        q, k, v, decay_h, decay_w = ctx.saved_tensors
        grad_q, grad_k, grad_v = (
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)
        )
        scale = q.shape[-1] ** -0.5
        for b in range(len(q)):
            queries, grads, into = (_by_head(x[b]) for x in (q, grad_out, grad_q))
            keys, values = _flat(k[b]), _flat(v[b])
            keys_t, values_t = (x.transpose(1, 2).contiguous() for x in (keys, values))
            sum_k, sum_v = torch.zeros_like(keys), torch.zeros_like(values)
            for heads, rows in _blocks(*q.shape[1:4]):
                softmax = _softmax_of_decayed(
                    queries[heads, rows], keys_t[heads], decay_h[heads, rows], decay_w[heads]
                )
                grad = grads[heads, rows].flatten(1, 2).to(softmax.dtype)
                sum_v[heads].baddbmm_(softmax.transpose(1, 2), grad)
                grad_logits = torch.ops.aten._softmax_backward_data(
                    grad @ values_t[heads], softmax, -1, softmax.dtype
                )
                into[heads, rows] = (
                    (grad_logits @ keys[heads]).mul_(scale).view_as(into[heads, rows])
                )
                query = queries[heads, rows].flatten(1, 2).to(softmax.dtype)
                sum_k[heads].baddbmm_(grad_logits.transpose(1, 2), query, alpha=scale)
            _by_head(grad_k[b]).copy_(sum_k.view_as(_by_head(grad_k[b])))
            _by_head(grad_v[b]).copy_(sum_v.view_as(_by_head(grad_v[b])))
        return grad_q, grad_k, grad_v, None, None


def _blocks(height: int, width: int, heads: int) -> Iterator[Tuple[slice, slice]]:
    """Ranges of heads and of image rows whose maps hold about BLOCK_ELEMENTS."""
    row_elements = width * height * width
    rows = min(height, max(1, BLOCK_ELEMENTS // row_elements))
    group = min(heads, max(1, BLOCK_ELEMENTS // (rows * row_elements)))
    for head in range(0, heads, group):
        for row in range(0, height, rows):
            yield slice(head, head + group), slice(row, row + rows)


def _by_head(x: Tensor) -> Tensor:
    """(H, W, n, d) -> (n, H, W, d)."""
    return x.permute(2, 0, 1, 3)


def _flat(x: Tensor) -> Tensor:
    """(H, W, n, d) -> (n, H * W, d), copied, at least float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return _by_head(x).flatten(1, 2).to(wide).contiguous()


def _softmax_of_decayed(q: Tensor, keys_t: Tensor, decay_h: Tensor, decay_w: Tensor) -> Tensor:
    """Attention of some heads and image rows, (n, rows * W, H * W).

    Args:
        q: (n, rows, W, d).
        keys_t: (n, d, H * W), at least float32.
        decay_h: (n, rows, H).
        decay_w: (n, W, W).
    """
    decay = decay_h[:, :, None, :, None] + decay_w[:, None, :, None, :]
    logits = decay.to(keys_t.dtype).view(len(q), -1, keys_t.shape[-1])
    query = q.flatten(1, 2).to(keys_t.dtype)
    return logits.baddbmm_(query, keys_t, alpha=q.shape[-1] ** -0.5).softmax(-1)


_full = Operation(
    'full MaSA',
    [
        Implementation('torch', masa_full_blocked, refuse_in_graphs),
        Implementation('reference', masa_full_reference, always),
    ],
)
_axial = Operation(
    'axial MaSA',
    [
        Implementation('torch', masa_axial_fused, refuse_in_graphs),
        Implementation('reference', masa_axial_reference, always),
    ],
)
