"""Efficient multi-head self-attention of ResT, after the projections."""

from functools import partial
from typing import Any, Optional, Tuple

import torch.nn.functional as F
from torch import Tensor

from ..blocks import DEVICE_BLOCK_ELEMENTS, refuse_unless_small
from ..dispatch import Implementation, Operation, refuse_in_graphs
from ..gpu import run_operator, triton_implementation
from ..trust import Candidate, filled
from .reference import EPS, emsa_reference
from .torch import BlockwiseEMSA, emsa_in_graphs


def emsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Optional[Tensor] = None,
    mix_bias: Optional[Tensor] = None,
    eps: float = EPS,
) -> Tensor:
    """Compute ResT's EMSA, ``IN(softmax(Conv(q k^T / sqrt(d)))) v``.

    ``Conv`` is a 1x1 convolution over the heads. ``IN`` is an instance norm over each head's
    (N, M) map. It has no affine parameters and uses each sample's statistics, even in evaluation.
    Both are skipped without `mix_weight` (for a single head). A map with one element has no
    variance and is normalised to 0.

    In half precision, softmax and norm are computed in float32. See :mod:`mmrest.ops.dispatch`
    for how the implementation is chosen.

    Args:
        q: queries, (B, n, N, d).
        k: keys, (B, n, M, d); M = ceil(H / s) * ceil(W / s) for stride s.
        v: values, (B, n, M, d).
        mix_weight: weight of the convolution over heads, (n, n, 1, 1).
        mix_bias: bias of that convolution, (n,). It shifts all logits of a head equally, so it
            does not affect the result or other gradients, and its own gradient is zero.
        eps: added to the variance in the instance norm.

    Returns:
        (B, n, N, d), in the dtype of `v`.

    Raises:
        ValueError: the forced backend cannot run.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)  # autocast computes a norm of them in float32
    if mix_weight is None:
        return _one_head(q, k, v)
    return _mixed_heads(q, k, v, mix_weight, mix_bias, eps)


def _trial(q: Tensor, v: Tensor) -> Tuple[Any, ...]:
    """Return the arguments of a small case, see :class:`.Candidate`."""
    heads, queries, keys = 2, 133, 70  # several tiles of the kernel, the last one partial
    return (
        filled((1, heads, queries, q.shape[-1]), q, 0.7),
        filled((1, heads, keys, q.shape[-1]), q, 1.3),
        filled((1, heads, keys, v.shape[-1]), v, 2.9),
        filled((heads, heads, 1, 1), q, 1.9),
        None,  # the result does not depend on the bias
        EPS,
    )


def _refuse_unless_small(q: Tensor, k: Tensor, *_: Any) -> Optional[str]:
    return refuse_unless_small(q, k.shape[2], DEVICE_BLOCK_ELEMENTS)


_one_head = Operation(
    'emsa over one head',
    [
        # Without mix and norm, it is standard attention.
        Implementation('triton', F.scaled_dot_product_attention),
        Implementation('torch', F.scaled_dot_product_attention),
        Implementation('reference', emsa_reference),
    ],
)
_kernel = Candidate(partial(run_operator, 'emsa'), emsa_reference, _trial)
_mixed_heads = Operation(
    'emsa',
    [
        Implementation('torch', emsa_reference, _refuse_unless_small),
        triton_implementation('EMSA', 'emsa', _kernel),
        Implementation('torch', BlockwiseEMSA.apply, refuse_in_graphs),
        Implementation('torch', emsa_in_graphs),
        Implementation('reference', emsa_reference),
    ],
)
