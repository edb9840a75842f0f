"""Layer norm before linear layers, without the casts of autocast."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import autocast_dtype, autocast_off
from .dispatch import in_graph


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Compute the layer norm of (..., C), for layers that autocast runs in half precision.

    On GPUs, autocast casts the input to float32, and each layer casts the result back. Here, an
    input in half precision is normalised as it is, with statistics in float32, and a result in
    float32 is cast once for all layers. Compilers fuse these casts.

    Weight and bias are (C,), and `eps` is added to the variance. Under autocast in eager mode, the
    result has the dtype of autocast unless `x` is float64.
    """
    half = None if in_graph() else autocast_dtype(x.device)
    if x.dtype is half:
        with autocast_off(x.device):
            return F.layer_norm(x, weight.shape, weight.to(half), bias.to(half), eps)
    out = F.layer_norm(x, weight.shape, weight, bias, eps)
    return out.to(half) if half is not None and out.dtype is torch.float32 else out
