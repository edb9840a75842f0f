"""Reference implementation of MaSA; materialises the full maps."""

from typing import Tuple

from torch import Tensor

from ..rotary import rotate
from .decay import PositionTables, cached_full_decay


def masa_full_reference(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return full MaSA.

    The decay is cached for the lifetime of the tables, as the official code does per stage.
    """
    q, k = _rotated(q, k, tables)
    decay = cached_full_decay(tables)
    q, k, tokens = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # B n HW d
    return _decayed_attention(q, k, tokens, decay).transpose(1, 2).reshape(v.shape)


def masa_axial_reference(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return axial MaSA."""
    q, k = _rotated(q, k, tables)
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))  # B H n W d
    v = _decayed_attention(q, k, v, tables.decay_w)
    q, k, v = (x.permute(0, 3, 2, 1, 4) for x in (q, k, v))  # B W n H d
    return _decayed_attention(q, k, v, tables.decay_h).permute(0, 3, 1, 2, 4)


def _rotated(q: Tensor, k: Tensor, tables: PositionTables) -> Tuple[Tensor, Tensor]:
    """Return rotated queries, and keys scaled and rotated, in the order of the official code."""
    return rotate(q, tables.cos_sin), rotate(k * k.shape[-1] ** -0.5, tables.cos_sin)


def _decayed_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """Return ``softmax(q k^T + decay) v`` for (..., n, L, d) and (n, L, L).

    The decay is a float32 table, so logits and softmax are also at least float32.
    """
    attention = (q @ k.transpose(-2, -1) + decay).softmax(-1)
    return attention.to(v.dtype) @ v
