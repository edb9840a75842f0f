"""Axial MaSA in blocks of its maps, with a backward pass of its own that makes them again."""

from typing import List, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from .autocast import without_autocast
from .block import block_elements
from .positions import PositionTables
from .rotation import turned

VECTOR = 16
"""Numbers in a vector of a processor with AVX-512, in float32."""


def masa_axial_blocked(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Axial :func:`masa` on a CPU: some of the maps of an axis at a time, which fit its caches."""
    return _BlockedAxial.apply(q, k, v, tables.turn, tables.decay_h, tables.decay_w)


class _BlockedAxial(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        turn: Tensor,
        decay_h: Tensor,
        decay_w: Tensor,
    ) -> Tensor:
        angle = torch.view_as_complex(turn)
        q, k = turned(q, angle), turned(k, angle)
        middle = _attention(*(_along_width(x) for x in (q, k, v)), decay_w)
        middle = _from_width(middle, q)
        out = _attention(*(_along_height(x) for x in (q, k, middle)), decay_h)
        ctx.save_for_backward(q, k, v, middle, turn, decay_h, decay_w)
        return _from_height(out, q).contiguous()

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        q, k, v, middle, turn, decay_h, decay_w = ctx.saved_tensors
        back = torch.view_as_complex(turn).conj()
        in_height = (_along_height(x) for x in (q, k, middle, grad_out))
        of_height = [_from_height(x, q) for x in _attention_backward(*in_height, decay_h)]
        in_width = (_along_width(x) for x in (q, k, v, of_height[-1]))
        of_width = [_from_width(x, q) for x in _attention_backward(*in_width, decay_w)]
        grad_q, grad_k = (
            turned(torch.add(*both, out=torch.empty_like(q)), back)
            for both in zip(of_width[:2], of_height[:2])
        )
        return grad_q, grad_k, of_width[2].contiguous(), None, None, None


def _along_width(x: Tensor) -> Tensor:
    """(B, H, W, n, d) -> (n, B * H, W, d), dense."""
    return x.permute(3, 0, 1, 2, 4).flatten(1, 2).contiguous()


def _along_height(x: Tensor) -> Tensor:
    """(B, H, W, n, d) -> (n, B * W, H, d), dense."""
    return _along_width(x.transpose(1, 2))


def _from_width(x: Tensor, like: Tensor) -> Tensor:
    """(n, B * H, W, d) -> (B, H, W, n, d), as a view."""
    return x.unflatten(1, like.shape[:2]).permute(1, 2, 3, 0, 4)


def _from_height(x: Tensor, like: Tensor) -> Tensor:
    """(n, B * W, H, d) -> (B, H, W, n, d), as a view."""
    return _from_width(x, like.transpose(1, 2)).transpose(1, 2)


def _attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(d) + decay) v``.

    Args:
        q: (n, R, L, d).
        k: like `q`.
        v: (n, R, L, d_v).
        decay: (n, L, L).
    """
    out = torch.empty_like(v)
    for part in _parts(q):
        softmax = _decayed_softmax(q[part], k[part], decay[part[0]])
        torch.bmm(softmax, v[part].flatten(0, 1), out=out[part].flatten(0, 1))
    return out


def _attention_backward(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, decay: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v in :func:`_attention`, whose result has the gradient `grad_out`."""
    grads = tuple(torch.empty_like(x) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5
    for part in _parts(q):
        softmax = _decayed_softmax(q[part], k[part], decay[part[0]])
        query, key, value, grad = (x[part].flatten(0, 1) for x in (q, k, v, grad_out))
        into_q, into_k, into_v = (x[part].flatten(0, 1) for x in grads)
        torch.bmm(softmax.mT, grad, out=into_v)
        if _is_short(q):
            grad_logits = _softmax_backward(value @ grad.mT, softmax.mT, 1).mT
        else:
            grad_logits = _softmax_backward(grad @ value.mT, softmax, 2)
        into_q.baddbmm_(grad_logits, key, beta=0, alpha=scale)
        into_k.baddbmm_(grad_logits.mT, query, beta=0, alpha=scale)
    return grads


def _parts(q: Tensor) -> List[Tuple[slice, slice]]:
    """Ranges of heads and rows of (n, R, L, d) that make blocks of maps."""
    heads, rows, length = q.shape[:3]
    most = block_elements(q.device) // max(1, length**2)
    rows_at_once = max(1, min(rows, most))
    heads_at_once = max(1, most // max(1, rows))
    return [
        (slice(head, head + heads_at_once), slice(row, row + rows_at_once))
        for head in range(0, heads, heads_at_once)
        for row in range(0, rows, rows_at_once)
    ]


def _decayed_softmax(q: Tensor, k: Tensor, decay: Tensor) -> Tensor:
    """Maps of some heads and rows (n, R, L, d), with the decay of these heads: (n * R, L, L)."""
    if _is_short(q):
        return _decayed_logits(k, q, decay.mT).softmax(1).mT
    return _decayed_logits(q, k, decay).softmax(2)


def _is_short(q: Tensor) -> bool:
    """Whether the columns of the maps of (n, R, L, d) had better be the queries.

    torch takes three times as long for a softmax along rows that fill no vector of the processor.
    """
    return q.shape[2] < VECTOR


def _decayed_logits(q: Tensor, k: Tensor, decay: Tensor) -> Tensor:
    heads, rows, length, dim = q.shape
    logits = q.new_empty(heads, rows, length, length).copy_(decay[:, None]).flatten(0, 1)
    return logits.baddbmm_(q.flatten(0, 1), k.flatten(0, 1).mT, alpha=dim**-0.5)


def _softmax_backward(grad: Tensor, softmax: Tensor, dim: int) -> Tensor:
    return torch.ops.aten._softmax_backward_data(grad, softmax, dim, softmax.dtype)
