"""Efficient multi-head self-attention of ResT, after the projections."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

INSTANCE_NORM_EPS = 1e-5


def emsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Optional[Tensor] = None,
    mix_bias: Optional[Tensor] = None,
) -> Tensor:
    """EMSA: ``IN(softmax(Conv(q k^T / sqrt(d)))) v`` (ResT, the equation of EMSA).

    ``Conv`` is a 1x1 convolution over the heads and ``IN`` an instance norm without affine
    parameters over each head's (N, M) map, with the statistics of the sample in evaluation
    too. Both belong together: without `mix_weight` (a single head) neither is applied. A map of
    one element has no variance and is normalised to 0.

    The softmax and the norm are computed in float32 for half types.

    Args:
        q: queries, (B, n, N, d).
        k: keys, (B, n, M, d); M is N reduced by the stride squared.
        v: values, (B, n, M, d).
        mix_weight: weight of the convolution over heads, (n, n, 1, 1).
        mix_bias: its bias, (n,).

    Returns:
        (B, n, N, d), in the type of `v`.
    """
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mix_weight is not None:
        logits = F.conv2d(logits, mix_weight, mix_bias)
    attention = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    if mix_weight is not None:
        # The layer norm over both dimensions of a map is its instance norm, and unlike torch's
        # instance_norm it accepts maps of a single element.
        attention = F.layer_norm(attention, attention.shape[-2:], eps=INSTANCE_NORM_EPS)
    return attention.to(v.dtype) @ v
