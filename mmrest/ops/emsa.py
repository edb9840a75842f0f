"""Efficient multi-head self-attention of ResT, after the projections."""

from typing import Any, Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from .autocast import without_autocast
from .backend import Implementation, Operation, always, refuse_in_graphs
from .block import block_elements
from .gpu import on_device_of, refuse_triton

EPS = 1e-5
"""What the instance norm of the released networks adds to a variance."""


def emsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Optional[Tensor] = None,
    mix_bias: Optional[Tensor] = None,
    eps: float = EPS,
) -> Tensor:
    """EMSA: ``IN(softmax(Conv(q k^T / sqrt(d)))) v`` (ResT, the equation of EMSA).

    ``Conv`` is a 1x1 convolution over the heads and ``IN`` an instance norm without affine
    parameters over each head's (N, M) map, with the statistics of the sample in evaluation
    too. Both belong together: without `mix_weight` (a single head) neither is applied. A map of
    one element has no variance and is normalised to 0.

    Softmax and norm are computed in float32 for half types. See :mod:`mmrest.ops.backend` for
    how the implementation is chosen.

    Args:
        q: queries, (B, n, N, d).
        k: keys, (B, n, M, d); M is N reduced by the stride squared.
        v: values, (B, n, M, d).
        mix_weight: weight of the convolution over heads, (n, n, 1, 1).
        mix_bias: its bias, (n,). It moves all logits of a head alike, so the result and the
            other gradients do not depend on it, and its own gradient is zero.
        eps: what the instance norm adds to a variance.

    Returns:
        (B, n, N, d), in the type of `v`.

    Raises:
        ValueError: a forced backend cannot run.
    """
    if mix_weight is None:
        return _single(q, k, v)
    return _mixed(q, k, v, mix_weight, mix_bias, eps)


def emsa_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Optional[Tensor] = None,
    mix_bias: Optional[Tensor] = None,
    eps: float = EPS,
) -> Tensor:
    """Plain form of :func:`emsa`, with the whole maps in memory."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mix_weight is not None:
        logits = F.conv2d(logits, mix_weight, mix_bias)
    attention = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    if mix_weight is not None:
        # The layer norm over both dimensions of a map is its instance norm, and unlike torch's
        # instance_norm it accepts maps of a single element.
        attention = F.layer_norm(attention, attention.shape[-2:], eps=eps)
    return attention.to(v.dtype) @ v


def emsa_whole(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor,
    mix_bias: Optional[Tensor] = None,
    eps: float = EPS,
) -> Tensor:
    """:func:`emsa` over several heads with the algebra of :func:`emsa_blocked`, in one block.

    Its few plain operations are what compilers and exporters take.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    keys = k.shape[2]
    unit = _unit(keys, eps)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    mixed = F.conv2d(logits, mix_weight, mix_bias).to(wide)
    deviation = mixed.softmax(-1) * unit - unit / keys
    variance = deviation.square().mean((-2, -1), keepdim=True)
    product = deviation.to(v.dtype) @ v
    return (product * torch.rsqrt(variance + eps * unit**2)).to(v.dtype)


def _unit(keys: int, eps: float) -> float:
    """How many times larger R is made where it may be in a half type.

    Small deviations are not lost then, and the plain form, too, makes them so large in maps that
    hardly vary.
    """
    return eps**-0.5 if eps > 0 else keys


def emsa_blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor,
    mix_bias: Optional[Tensor] = None,
    eps: float = EPS,
) -> Tensor:
    """:func:`emsa` over several heads, in memory linear in N: a block of rows at a time.

    Rows of the softmax P sum to 1, so the mean of a map is exactly 1 / M. With R = P - 1/M, the
    result is ``R v * rsqrt(mean(R^2) + eps)``: each block adds to R v and to the sum of squares,
    and the factor is applied at the end. Subtracting first keeps what a difference of sums
    would cancel. The backward pass makes the blocks again.
    """
    return _BlockedEMSA.apply(q, k, v, mix_weight, mix_bias, eps)


def emsa_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor,
    mix_bias: Optional[Tensor] = None,
    eps: float = EPS,
) -> Tensor:
    """:func:`emsa` over several heads in one kernel; the algebra is :func:`emsa_blocked`'s."""
    from .kernels.emsa import mixed

    with on_device_of(q):
        return mixed(q, k, v, mix_weight, mix_bias, eps)


class _BlockedEMSA(Function):
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
        # Next to each other for each token, as the output projection wants them.
        out = v.new_empty(batch, queries, heads, channels).transpose(1, 2)
        squares = q.new_zeros(batch, heads, dtype=wide)
        unit = _unit(keys, eps)
        minus_mean = squares.new_tensor(-unit / keys)
        for samples, blocks in _blocks(q, heads * keys):
            keys_t, values = _scaled_keys(k[samples]), v[samples].contiguous()
            sums = out[samples] if out.dtype == wide else out[samples].to(wide)
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
    @once_differentiable
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
        # d loss / d (R * factor), summed with R * factor over the map, needs no map: it is the
        # product of the result and its gradient. The mean of the map is constant.
        shrink = (grad_out.to(wide) * out).sum((2, 3)) * factor**2 / (queries * keys)

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
                deviation *= -shrink[samples][..., None, None]
                # Adds to the deviation in place, which is not needed any more.
                deviation.flatten(0, 1).baddbmm_(grad.flatten(0, 1), values_t.flatten(0, 1))
                grad_mixed = torch.ops.aten._softmax_backward_data(
                    deviation, softmax, -1, softmax.dtype
                )
                # Row by row and then over the rows: one long sum would lose digits.
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
    """Ranges of samples, and for each its ranges of rows, that make blocks of maps.

    A block holds about :func:`~mmrest.ops.block.block_elements`: several samples of small maps,
    or some rows of one sample, no range much smaller than the others.

    Args:
        q: queries, (B, n, N, d).
        row_elements: of one row of all heads' maps.
    """
    batch, queries, most = q.shape[0], q.shape[2], block_elements(q.device)
    group = max(1, most // (queries * row_elements))
    number = max(1, round(queries * row_elements / most))
    step = -(-queries // number)
    rows = [slice(start, start + step) for start in range(0, queries, step)]
    for start in range(0, batch, group):
        yield slice(start, start + group), rows


def _scaled_keys(k: Tensor) -> Tensor:
    """Keys (B, n, M, d) -> (B, n, d, M), scaled: unscaled logits could overflow in float16."""
    return (k * k.shape[-1] ** -0.5).mT.contiguous()


def _softmax_of_mixed(q: Tensor, keys_t: Tensor, weight: Tensor) -> Tuple[Tensor, Tensor]:
    """Softmax of mixed logits, and the scaled logits before, (B, n, rows, M).

    Args:
        q: some rows of some samples, (B, n, rows, d).
        keys_t: what :func:`_scaled_keys` gives for them.
        weight: weight of the mix, (n, n); its type is that of the softmax.
    """
    logits = (q @ keys_t).to(weight.dtype)
    return _mixed_heads(weight, logits).softmax(-1), logits


def _mixed_heads(weight: Tensor, maps: Tensor) -> Tensor:
    """The 1x1 convolution over the heads of (B, n, rows, M), without a copy to other strides."""
    return weight.expand(len(maps), -1, -1).bmm(maps.flatten(2)).view_as(maps)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _refuse_triton(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Optional[str]:
    return refuse_triton(q, k, v)


_single = Operation(
    'emsa over one head',
    [
        # Without mix and norm it is plain attention, whose kernels torch has.
        Implementation('triton', _sdpa, always),
        Implementation('torch', _sdpa, always),
        Implementation('reference', emsa_reference, always),
    ],
)
_mixed = Operation(
    'emsa',
    [
        Implementation('triton', emsa_triton, _refuse_triton),
        Implementation('torch', emsa_blocked, refuse_in_graphs),
        Implementation('torch', emsa_whole, always),
        Implementation('reference', emsa_reference, always),
    ],
)
