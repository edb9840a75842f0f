"""Which layers may be computed otherwise than by a call."""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from .lean import is_plain


def is_replaceable(layer: nn.Module, kind: type, x: Tensor) -> bool:
    """Whether a layer does nothing but the arithmetic of its kind, in float32 on a CPU.

    It is not where plain steps are asked for, in graphs, and under autocast.

    Args:
        layer: it may be whatever has taken the layer's place.
        kind: a class of layers with weights.
        x: what it is to be called with.
    """
    if type(layer) is not kind or _is_watched(layer) or is_plain():
        return False
    return _is_usual(x) and _is_usual(layer.weight) and not torch.is_autocast_enabled('cpu')


def _is_watched(layer: nn.Module) -> bool:
    """Whether something else happens when a layer is called."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return any(hooks) or 'forward' in vars(layer) or _has_any_global_hook()


def _is_usual(x: Tensor) -> bool:
    """Whether a tensor is dense, on the CPU, in float32, and of no class of its own."""
    if type(x) not in (Tensor, nn.Parameter) or x.layout is not torch.strided:
        return False
    return x.device.type == 'cpu' and x.dtype is torch.float32
