"""Manhattan self-attention of RMT: its tables, its full and its axial form.

In both forms a token at (y, x) weighs one at (y', x') by ``gamma^(|y - y'| + |x - x'|)``. The
released networks add the logarithm of that decay to the logits before the softmax, and so do
these functions. Because the distance is a sum, the decay is given as two small tables, one an
axis, whose sum is never stored for more than one map.
"""

from typing import Tuple

import torch
from torch import Tensor


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


def masa_full(q: Tensor, k: Tensor, v: Tensor, decay_h: Tensor, decay_w: Tensor) -> Tensor:
    """Manhattan self-attention over all tokens of a map (RMT, section "Manhattan Self-Attention").

    Args:
        q: rotated queries, (B, n, H, W, d).
        k: rotated and scaled keys, (B, n, H, W, d).
        v: values, (B, n, H, W, d_v).
        decay_h: log decay between rows, (n, H, H).
        decay_w: log decay between columns, (n, W, W).

    Returns:
        (B, n, H, W, d_v), in the type of `v`.
    """
    height, width = v.shape[2:4]
    decay = decay_h[:, :, None, :, None] + decay_w[:, None, :, None, :]
    decay = decay.reshape(-1, height * width, height * width)
    q, k, values = (x.flatten(2, 3) for x in (q, k, v))
    return _decayed_attention(q, k, values, decay).reshape(v.shape)


def masa_axial(q: Tensor, k: Tensor, v: Tensor, decay_h: Tensor, decay_w: Tensor) -> Tensor:
    """Decomposed Manhattan self-attention: along the rows, then along the columns.

    The attention along the width is applied to `v`, the one along the height to its result; the
    same queries and keys serve both (RMT, "Decomposed Manhattan Self-Attention"). Arguments and
    result are those of :func:`masa_full`.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B H n W d
    v = _decayed_attention(q, k, v, decay_w)
    q, k, v = (x.permute(0, 3, 2, 1, 4) for x in (q, k, v))  # B W n H d
    return _decayed_attention(q, k, v, decay_h).permute(0, 2, 3, 1, 4)


def _decayed_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """``softmax(q k^T + decay) v`` for (..., n, L, d) and (n, L, L).

    The decay is a float32 table, so that logits and softmax are at least float32 too.
    """
    attention = (q @ k.transpose(-2, -1) + decay).softmax(-1)
    return attention.to(v.dtype) @ v
