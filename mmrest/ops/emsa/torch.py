"""EMSA in PyTorch, block by block, with recomputation in the backward pass."""

from typing import Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from ..autograd import differentiable_once, without_autocast
from ..blocks import block_elements


def emsa_in_graphs(
    q: Tensor, k: Tensor, v: Tensor, mix_weight: Tensor, mix_bias: Optional[Tensor], eps: float
) -> Tensor:
    """Return EMSA over several heads with the algebra of :class:`BlockwiseEMSA`, in one block.

    Its few standard ops suit compilers and exporters.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    unit = _unit(k.shape[2], eps)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    mixed = F.conv2d(logits, mix_weight, mix_bias).to(wide)
    softmax = mixed.softmax(-1)
    # Its mean is 1 / keys, which TorchScript's ONNX exporter would make a constant.
    deviation = (softmax - softmax.mean(-1, keepdim=True)) * unit
    variance = deviation.square().mean((-2, -1), keepdim=True)
    product = deviation.to(v.dtype) @ v
    return (product * torch.rsqrt(variance + eps * unit**2)).to(v.dtype)


def _unit(keys: int, eps: float) -> float:
    """Return the factor that scales R if it may be in half precision.

    It preserves small deviations. The norm of the reference scales maps of low variance as much.
    """
    return eps**-0.5 if eps > 0 else keys


class BlockwiseEMSA(Function):
    """EMSA over several heads, in blocks of rows, with memory linear in N.

    Rows of the softmax P sum to 1, so the mean of a map is exactly 1 / M. With R = P - 1/M, the
    result is ``R v * rsqrt(mean(R^2) + eps)``: each block adds to R v and to the sum of squares,
    and the factor is applied at the end. Subtracting the mean first avoids the cancellation of a
    difference of sums. The backward pass recomputes the blocks.
    """

    @staticmethod
    @without_autocast
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mix_weight: Tensor,
        mix_bias: Optional[Tensor],
        eps: float,
    ) -> Tensor:
        batch, heads, queries, _ = q.shape
        keys, channels = v.shape[-2:]
        wide = torch.promote_types(q.dtype, torch.float32)
        weight = mix_weight.reshape(heads, heads).to(wide)
        # Heads are adjacent for each token, as the output projection expects them.
        out = v.new_empty(batch, queries, heads, channels).transpose(1, 2)
        squares = q.new_zeros(batch, heads, dtype=wide)
        unit = _unit(keys, eps)
        minus_mean = squares.new_full((), -unit / keys)
        for samples, blocks in _blocks(q, heads * keys):
            keys_t, values = _scaled_keys(k[samples]), v[samples].contiguous()
            sums = out[samples].to(wide)  # a view if the dtypes are equal
            for rows in blocks:
                softmax = _softmax_of_mixed(q[samples, :, rows], keys_t, weight)[0]
                deviation = torch.add(minus_mean, softmax, alpha=unit, out=softmax)
                squares[samples] += torch.linalg.vector_norm(deviation, dim=(2, 3)).square()
                sums[:, :, rows] = deviation.to(v.dtype) @ values
            variance = squares[samples] / (queries * keys)
            out[samples] = sums * torch.rsqrt(variance + eps * unit**2)[..., None, None]
        ctx.save_for_backward(q, k, v, mix_weight, out, squares)
        ctx.eps = eps
        ctx.has_bias = mix_bias is not None
        return out

    @staticmethod
    @differentiable_once
    @without_autocast
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        q, k, v, mix_weight, out, squares = ctx.saved_tensors
        heads, queries, dim = q.shape[1:]
        keys = k.shape[2]
        wide = squares.dtype
        scale = dim**-0.5
        weight = mix_weight.reshape(heads, heads).to(wide)
        unit = _unit(keys, ctx.eps)
        factor = torch.rsqrt(squares / (queries * keys) + ctx.eps * unit**2) * unit
        # The sum of d loss / d (R * factor) times R * factor over a map is the product of the
        # result and its gradient, so it needs no map. The mean of the map is constant.
        norm_term = (grad_out.to(wide) * out).sum((2, 3)) * factor**2 / (queries * keys)

        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        grad_weight = torch.zeros_like(weight)
        for samples, blocks in _blocks(q, heads * keys):
            keys_, keys_t = k[samples].to(wide), _scaled_keys(k[samples])
            values_t = v[samples].to(wide).mT.contiguous()
            sum_k, sum_v = (torch.zeros_like(x[samples], dtype=wide) for x in (k, v))
            for rows in blocks:
                query = q[samples, :, rows]
                grad = grad_out[samples, :, rows].to(wide) * factor[samples][..., None, None]
                softmax, logits = _softmax_of_mixed(query, keys_t, weight)
                deviation = softmax - 1 / keys
                sum_v += deviation.mT @ grad
                deviation *= -norm_term[samples][..., None, None]
                # In place: the deviation is no longer needed.
                deviation.flatten(0, 1).baddbmm_(grad.flatten(0, 1), values_t.flatten(0, 1))
                grad_mixed = torch.ops.aten._softmax_backward_data(
                    deviation, softmax, -1, softmax.dtype
                )
                # Per row and then over the rows: one long sum would lose precision.
                by_row = grad_mixed.transpose(1, 2) @ logits.permute(0, 2, 3, 1)
                grad_weight += by_row.sum((0, 1))
                grad_logits = _mixed_heads(weight.t(), grad_mixed)
                grad_q[samples, :, rows] = (grad_logits @ keys_) * scale
                sum_k += grad_logits.mT @ query.to(wide)
            grad_k[samples] = sum_k * scale
            grad_v[samples] = sum_v
        grad_weight = grad_weight.to(mix_weight.dtype).view_as(mix_weight)
        grad_bias = grad_weight.new_zeros(heads) if ctx.has_bias else None
        return grad_q, grad_k, grad_v, grad_weight, grad_bias, None


def _blocks(q: Tensor, row_elements: int) -> Iterator[Tuple[slice, List[slice]]]:
    """Yield ranges of samples, each with its ranges of rows: one block of maps per pair.

    A block has about :func:`~mmrest.ops.blocks.block_elements`: several samples of small maps,
    or some rows of one sample. No range is much smaller than the others. Queries are (B, n, N, d);
    one row of all heads' maps has `row_elements`.
    """
    batch, queries, limit = q.shape[0], q.shape[2], block_elements(q.device)
    group = max(1, limit // (queries * row_elements))
    number = max(1, round(queries * row_elements / limit))
    step = -(-queries // number)
    rows = [slice(start, start + step) for start in range(0, queries, step)]
    for start in range(0, batch, group):
        yield slice(start, start + group), rows


def _scaled_keys(k: Tensor) -> Tensor:
    """Transpose (B, n, M, d) to (B, n, d, M) and scale; unscaled float16 logits could overflow."""
    return (k * k.shape[-1] ** -0.5).mT.contiguous()


def _softmax_of_mixed(q: Tensor, keys_t: Tensor, weight: Tensor) -> Tuple[Tensor, Tensor]:
    """Return the softmax of mixed logits, and the logits before the mix, (B, n, rows, M) each.

    Queries are (B, n, rows, d), keys come from :func:`_scaled_keys`, and the weight (n, n) of the
    mix has the dtype of the softmax.
    """
    logits = (q @ keys_t).to(weight.dtype)
    return _mixed_heads(weight, logits).softmax(-1), logits


def _mixed_heads(weight: Tensor, maps: Tensor) -> Tensor:
    """Return the 1x1 convolution over the heads of (B, n, rows, M), in the same layout."""
    return weight.expand(len(maps), -1, -1).bmm(maps.flatten(2)).view_as(maps)
