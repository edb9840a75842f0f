"""Reference implementation of EMSA; materialises the full maps."""

from functools import partial
from typing import Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
"""Added to the variance by the instance norm of the official networks."""


def emsa_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Optional[Tensor] = None,
    mix_bias: Optional[Tensor] = None,
    eps: float = EPS,
    mix: Optional[Callable[[Tensor], Tensor]] = None,
) -> Tensor:
    """Return :func:`mmrest.ops.emsa.emsa`, computed term by term.

    In place of `mix_weight`, `mix` may be a function of the logits (B, n, N, M).
    """
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mix_weight is not None:
        mix = partial(F.conv2d, weight=mix_weight, bias=mix_bias)
    if mix is not None:
        logits = mix(logits)
    attention = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    if mix is not None:
        # A layer norm over both dimensions of a map equals its instance norm. Unlike torch's
        # instance_norm, it accepts maps of a single element.
        attention = F.layer_norm(attention, attention.shape[-2:], eps=eps)
    return attention.to(v.dtype) @ v
