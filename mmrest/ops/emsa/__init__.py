"""Efficient multi-head self-attention of ResT, after the projections."""

from typing import Optional

import torch.nn.functional as F
from torch import Tensor

from ..dispatch import Implementation, Operation, always, refuse_in_graphs
from ..gpu import on_device_of, refuse_triton
from .plain import EPS, emsa_reference
from .pytorch import emsa_blocked, emsa_whole


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
    one element has no variance and is normalized to 0.

    Softmax and norm are computed in float32 for half types. See :mod:`mmrest.ops.dispatch` for
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


def emsa_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor,
    mix_bias: Optional[Tensor] = None,
    eps: float = EPS,
) -> Tensor:
    """:func:`emsa` over several heads in one kernel; the algebra is :func:`emsa_blocked`'s."""
    from .kernels import mixed

    with on_device_of(q):
        return mixed(q, k, v, mix_weight, mix_bias, eps)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


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
        Implementation('triton', emsa_triton, refuse_triton),
        Implementation('torch', emsa_blocked, refuse_in_graphs),
        Implementation('torch', emsa_whole, always),
        Implementation('reference', emsa_reference, always),
    ],
)
