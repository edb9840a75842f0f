"""Manhattan self-attention of RMT, after the projections.

A token at (y, x) weighs one at (y', x') by ``gamma^(|y - y'| + |x - x'|)``. The released networks
add the logarithm of that decay to the logits before the softmax, and so do these functions.
Because the distance is a sum, the decay is kept as two small tables, one an axis.
"""

from typing import Iterator, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.weak import WeakIdKeyDictionary

from .autocast import autocast_off, without_autocast
from .backend import Implementation, Operation, always, in_graph, refuse_in_graphs
from .block import block_elements
from .gpu import on_device_of, refuse_triton

SHORT = 16
"""Length of an axis from which on torch's fused attention is the fastest on a CPU."""


class PositionTables(NamedTuple):
    """Everything of MaSA that depends on positions alone; see :func:`position_tables`."""

    sin: Tensor  # H W d
    cos: Tensor  # H W d
    turn: Tensor  # H W d/2 2, real and imaginary part of cos + i sin
    decay_h: Tensor  # n H H, logarithms
    decay_w: Tensor  # n W W
    log_gamma: Tensor  # n


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
        log_gamma,
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

    Rotation and softmax are computed in the wider of the tables' and the inputs' types.
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
    """Plain form of full :func:`masa`, with the whole maps and the decay in memory.

    The decay is kept as long as the tables are, as the released code keeps it for a stage.
    """
    q, k = _rotated(q, k, tables)
    decay = _full_decays.get(tables.decay_h)
    if decay is None:
        decay = _full_decay(tables)
        if not in_graph():
            _full_decays[tables.decay_h] = decay
    q, k, tokens = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # B n HW d
    return _decayed_attention(q, k, tokens, decay).transpose(1, 2).reshape(v.shape)


_full_decays = WeakIdKeyDictionary()


def _full_decay(tables: PositionTables) -> Tensor:
    """Logarithm of the decay between all tokens, (n, H * W, H * W)."""
    decay = tables.decay_h[:, :, None, :, None] + tables.decay_w[:, None, :, None, :]
    tokens = decay.shape[1] * decay.shape[2]
    return decay.reshape(-1, tokens, tokens)


def masa_axial_reference(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Plain form of axial :func:`masa`, with all maps of an axis in memory."""
    q, k = _rotated(q, k, tables)
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))  # B H n W d
    v = _decayed_attention(q, k, v, tables.decay_w)
    q, k, v = (x.permute(0, 3, 2, 1, 4) for x in (q, k, v))  # B W n H d
    return _decayed_attention(q, k, v, tables.decay_h).permute(0, 3, 1, 2, 4)


def _rotated(q: Tensor, k: Tensor, tables: PositionTables) -> Tuple[Tensor, Tensor]:
    """Rotated queries, and keys scaled and rotated, as the released code does it."""
    return _turned_by_tables(q, k * k.shape[-1] ** -0.5, tables)


def _turned_by_tables(q: Tensor, k: Tensor, tables: PositionTables) -> Tuple[Tensor, Tensor]:
    """Rotated queries and keys."""
    sin, cos = tables.sin[:, :, None], tables.cos[:, :, None]
    return rotate(q, sin, cos), rotate(k, sin, cos)


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
        return _axes(q, k, v, tables)


def _axes(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Axial attention of rotated queries and keys."""
    v = _fused_attention(q, k, v, tables.decay_w)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B W H n d
    return _fused_attention(q, k, v, tables.decay_h).transpose(1, 2)


def masa_full_whole(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Full :func:`masa` of plain operations, which compilers and exporters take."""
    decay = _full_decay(tables)
    q, k = _turned_by_tables(q, k, tables)
    flat = (x.flatten(1, 2)[:, None] for x in (q, k, v))
    return _fused_attention(*flat, decay).reshape(v.shape)


def masa_axial_whole(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Axial :func:`masa` of plain operations, which compilers and exporters take."""
    q, k = _turned_by_tables(q, k, tables)
    return _axes(q, k, v, tables)


def masa_full_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Full :func:`masa` in one kernel."""
    from .kernels.masa import full

    with on_device_of(q):
        return full(q, k, v, tables.turn, tables.log_gamma)


def masa_axial_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Axial :func:`masa` in one kernel an axis, which reads the maps as they lie."""
    from .kernels.masa import axial

    with on_device_of(q):
        return axial(q, k, v, tables.turn, tables.log_gamma)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(d) + decay) v`` along the third dimension of (B, P, L, n, d)."""
    if _is_short(q):
        return _short_attention(q, k, v, decay)
    mask = decay[None].to(q.dtype)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same for (P, L, n, d), which is what torch's fused attention takes."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    if in_graph():  # where the number of samples may be a symbol
        return attend(*(x.flatten(0, 1) for x in (q, k, v))).unflatten(0, q.shape[:2])
    if len(q) == 1:
        return attend(q[0], k[0], v[0])[None]
    if q.device.type == 'cpu' and len(q) > 1:
        # To join the first two dimensions would copy all three maps where they are transposed.
        return torch.stack([attend(*sample) for sample in zip(q, k, v)])
    return attend(*(x.flatten(0, 1) for x in (q, k, v))).unflatten(0, q.shape[:2])


def _is_short(q: Tensor) -> bool:
    """Whether torch's softmax would work through rows that do not fill a vector register."""
    if in_graph() or torch.is_grad_enabled() or q.device.type != 'cpu':
        return False
    return q.dtype not in (torch.float16, torch.bfloat16) and q.shape[2] < SHORT


def _short_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """:func:`_fused_attention` with the softmax of a few operations over all rows at once."""
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))
    logits = (q @ k.mT).mul_(q.shape[-1] ** -0.5).add_(decay)
    weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    return (weights @ v).div_(weights.sum(-1, keepdim=True)).transpose(2, 3)


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
    pairs = x.to(wide).unflatten(-1, (-1, 2))
    # Complex numbers lie at even places, their two parts side by side.
    places = (*pairs.stride()[:-1], pairs.storage_offset())
    if pairs.stride(-1) != 1 or any(place % 2 for place in places):
        pairs = pairs.clone(memory_format=torch.contiguous_format)
    pairs = torch.view_as_complex(pairs)
    return torch.view_as_real(pairs * turn[:, :, None]).flatten(-2).to(x.dtype)


class _BlockedFull(Function):
    """``softmax(q k^T / sqrt(d) + decay) v`` of rotated queries and keys, block by block."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, decay_h: Tensor, decay_w: Tensor
    ) -> Tensor:
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        for samples, blocks in _blocks(q):
            queries, into = _by_head(q[samples]), _by_head(out[samples])
            keys_t, values = _flat(k[samples]).mT.contiguous(), _flat(v[samples])
            for heads, rows in blocks:
                softmax = _softmax_of_decayed(
                    queries[:, heads, rows],
                    keys_t[:, heads],
                    decay_h[heads, rows],
                    decay_w[heads],
                )
                part = into[:, heads, rows]
                part.copy_((softmax @ values[:, heads]).view(part.shape))
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
        for samples, blocks in _blocks(q):
            queries, grads, into = (_by_head(x[samples]) for x in (q, grad_out, grad_q))
            keys, values = _flat(k[samples]), _flat(v[samples])
            keys_t, values_t = keys.mT.contiguous(), values.mT.contiguous()
            sum_k, sum_v = torch.zeros_like(keys), torch.zeros_like(values)
            for heads, rows in blocks:
                query, part = queries[:, heads, rows], into[:, heads, rows]
                softmax = _softmax_of_decayed(
                    query, keys_t[:, heads], decay_h[heads, rows], decay_w[heads]
                )
                grad = grads[:, heads, rows].flatten(2, 3).to(softmax.dtype)
                sum_v[:, heads] += softmax.mT @ grad
                grad_logits = torch.ops.aten._softmax_backward_data(
                    grad @ values_t[:, heads], softmax, -1, softmax.dtype
                )
                part.copy_((grad_logits @ keys[:, heads]).mul_(scale).view(part.shape))
                sum_k[:, heads] += grad_logits.mT @ query.flatten(2, 3).to(softmax.dtype)
            for total, of_map in ((sum_k.mul_(scale), grad_k), (sum_v, grad_v)):
                part = _by_head(of_map[samples])
                part.copy_(total.view(part.shape))
        return grad_q, grad_k, grad_v, None, None


def _blocks(q: Tensor) -> Iterator[Tuple[slice, List[Tuple[slice, slice]]]]:
    """Ranges of samples, and for each its ranges of heads and image rows, that make blocks.

    A block of maps holds about :func:`~mmrest.ops.block.block_elements`, and never less than one
    image row of one head.

    Args:
        q: queries, (B, H, W, n, d).
    """
    batch, height, width, heads, _ = q.shape
    most, row_elements = block_elements(q.device), width * height * width
    rows = min(height, max(1, most // row_elements))
    heads_at_once = min(heads, max(1, most // (rows * row_elements)))
    group = max(1, most // (heads * height * row_elements))
    blocks = [
        (slice(head, head + heads_at_once), slice(row, row + rows))
        for head in range(0, heads, heads_at_once)
        for row in range(0, height, rows)
    ]
    for start in range(0, batch, group):
        yield slice(start, start + group), blocks


def _by_head(x: Tensor) -> Tensor:
    """(B, H, W, n, d) -> (B, n, H, W, d)."""
    return x.permute(0, 3, 1, 2, 4)


def _flat(x: Tensor) -> Tensor:
    """(B, H, W, n, d) -> (B, n, H * W, d), copied, at least float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return _by_head(x).flatten(2, 3).to(wide).contiguous()


def _softmax_of_decayed(q: Tensor, keys_t: Tensor, decay_h: Tensor, decay_w: Tensor) -> Tensor:
    """Attention of some heads and image rows, (B, n, rows * W, H * W).

    Args:
        q: (B, n, rows, W, d).
        keys_t: (B, n, d, H * W), at least float32.
        decay_h: (n, rows, H).
        decay_w: (n, W, W).
    """
    decay = decay_h[:, :, None, :, None] + decay_w[:, None, :, None, :]
    decay = decay.to(keys_t.dtype).view(q.shape[1], -1, keys_t.shape[-1])
    logits = decay.expand(len(q), -1, -1, -1).flatten(0, 1)  # a copy for several samples alone
    query = q.flatten(2, 3).flatten(0, 1).to(keys_t.dtype)
    logits = logits.baddbmm_(query, keys_t.flatten(0, 1), alpha=q.shape[-1] ** -0.5)
    return logits.softmax(-1).unflatten(0, q.shape[:2])


def _refuse_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Optional[str]:
    return refuse_triton(q, k, v)


_full = Operation(
    'full MaSA',
    [
        Implementation('triton', masa_full_triton, _refuse_triton),
        Implementation('torch', masa_full_blocked, refuse_in_graphs),
        Implementation('torch', masa_full_whole, always),
        Implementation('reference', masa_full_reference, always),
    ],
)
_axial = Operation(
    'axial MaSA',
    [
        Implementation('triton', masa_axial_triton, _refuse_triton),
        Implementation('torch', masa_axial_fused, refuse_in_graphs),
        Implementation('torch', masa_axial_whole, always),
        Implementation('reference', masa_axial_reference, always),
    ],
)
