"""MaSA in PyTorch: axial with fused attention, full block by block."""

from typing import Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from ..autograd import autocast_off, differentiable_once, without_autocast
from ..blocks import block_elements
from ..dispatch import in_graph
from ..rotary import Rotate, rotate
from .decay import PositionTables, full_decay


def masa_axial_fused(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return axial MaSA with torch's fused attention, which does not materialise maps."""
    q, k = Rotate.apply(q, tables.cos_sin), Rotate.apply(k, tables.cos_sin)
    with autocast_off(q.device):
        return _axes(q, k, v, tables)


def _axes(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return the axial attention of rotated queries and keys."""
    v = _fused_attention(q, k, v, tables.decay_w)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B W H n d
    return _fused_attention(q, k, v, tables.decay_h).transpose(1, 2)


def masa_axial_in_graphs(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return axial MaSA in standard ops, for compilers and exporters."""
    return _axes(rotate(q, tables.cos_sin), rotate(k, tables.cos_sin), v, tables)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """Return ``softmax(q k^T / sqrt(d) + decay) v`` along dimension L of (B, P, L, n, d)."""
    mask = decay[None].to(q.dtype)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the same for (P, L, n, d), as torch's fused attention expects it."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    # In a graph the number of samples may be a symbol.
    if not in_graph() and q.device.type == 'cpu' and len(q) > 1:
        # Flattening the first two dimensions would copy all three maps if they are transposed.
        return torch.stack([attend(*sample) for sample in zip(q, k, v)])
    return attend(*(x.flatten(0, 1) for x in (q, k, v))).unflatten(0, q.shape[:2])


def masa_full_in_graphs(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return full MaSA in standard ops, for compilers and exporters."""
    decay = full_decay(tables.decay_h, tables.decay_w)
    q, k = rotate(q, tables.cos_sin), rotate(k, tables.cos_sin)
    flat = (x.flatten(1, 2)[:, None] for x in (q, k, v))
    return _fused_attention(*flat, decay).reshape(v.shape)


def masa_full_blockwise(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Return full MaSA, in blocks of image rows of queries, with memory linear in H W.

    The decay of each block is computed on the fly. The backward pass recomputes the blocks.
    """
    q, k = Rotate.apply(q, tables.cos_sin), Rotate.apply(k, tables.cos_sin)
    return _BlockwiseFull.apply(q, k, v, tables.decay_h, tables.decay_w)


class _BlockwiseFull(Function):
    """``softmax(q k^T / sqrt(d) + decay) v`` of rotated queries and keys, block by block."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, decay_h: Tensor, decay_w: Tensor
    ) -> Tensor:
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        for samples, blocks in _blocks(q):
            queries, into = _by_head(q[samples]), _by_head(out[samples])
            keys_t, values_t = _transposed(k[samples]), _transposed(v[samples])
            for heads, rows in blocks:
                softmax = _softmax_of_decayed(
                    queries[:, heads, rows], keys_t[:, heads], decay_h[heads, rows], decay_w[heads]
                )
                part = into[:, heads, rows]
                part.copy_((softmax @ values_t[:, heads].mT).view(part.shape))
        ctx.save_for_backward(q, k, v, decay_h, decay_w)
        return out

    @staticmethod
    @differentiable_once
    @without_autocast
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        q, k, v, decay_h, decay_w = ctx.saved_tensors
        grad_q, grad_k, grad_v = (
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)
        )
        scale = q.shape[-1] ** -0.5
        for samples, blocks in _blocks(q):
            queries, grads, into = (_by_head(x[samples]) for x in (q, grad_out, grad_q))
            keys_t, values_t = _transposed(k[samples]), _transposed(v[samples])
            sum_k, sum_v = (x.new_zeros(x.mT.shape) for x in (keys_t, values_t))
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
                grad_query = grad_logits @ keys_t[:, heads].mT
                part.copy_(grad_query.mul_(scale).view(part.shape))
                sum_k[:, heads] += grad_logits.mT @ query.flatten(2, 3).to(softmax.dtype)
            for total, of_map in ((sum_k.mul_(scale), grad_k), (sum_v, grad_v)):
                part = _by_head(of_map[samples])
                part.copy_(total.view(part.shape))
        return grad_q, grad_k, grad_v, None, None


def _blocks(q: Tensor) -> Iterator[Tuple[slice, List[Tuple[slice, slice]]]]:
    """Yield ranges of samples, each with its ranges of heads and image rows: one block per pair.

    A block of maps has about :func:`~mmrest.ops.blocks.block_elements`, and at least one image
    row of one head. Queries are (B, H, W, n, d).
    """
    batch, height, width, heads, _ = q.shape
    limit = block_elements(q.device)
    row_elements = width * height * width
    rows = min(height, max(1, limit // row_elements))
    heads_at_once = min(heads, max(1, limit // (rows * row_elements)))
    group = max(1, limit // (heads * height * row_elements))
    blocks = [
        (slice(head, head + heads_at_once), slice(row, row + rows))
        for head in range(0, heads, heads_at_once)
        for row in range(0, height, rows)
    ]
    for start in range(0, batch, group):
        yield slice(start, start + group), blocks


def _by_head(x: Tensor) -> Tensor:
    """Permute (B, H, W, n, d) to (B, n, H, W, d)."""
    return x.permute(0, 3, 1, 2, 4)


def _transposed(x: Tensor) -> Tensor:
    """Copy (B, H, W, n, d) to (B, n, d, H * W), in at least float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return _by_head(x).flatten(2, 3).mT.to(wide).contiguous()


def _softmax_of_decayed(q: Tensor, keys_t: Tensor, decay_h: Tensor, decay_w: Tensor) -> Tensor:
    """Return the attention of some heads and image rows, (B, n, rows * W, H * W).

    Queries are (B, n, rows, W, d), keys (B, n, d, H * W) in at least float32, and the decays of
    the axes (n, rows, H) and (n, W, W).
    """
    decay = full_decay(decay_h, decay_w).to(keys_t.dtype)
    logits = decay.expand(len(q), -1, -1, -1).flatten(0, 1)
    logits = logits.contiguous()  # several samples of one head are not copied by flatten
    query = q.flatten(2, 3).flatten(0, 1).to(keys_t.dtype)
    logits = logits.baddbmm_(query, keys_t.flatten(0, 1), alpha=q.shape[-1] ** -0.5)
    return logits.softmax(-1).unflatten(0, q.shape[:2])
