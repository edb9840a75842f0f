"""Kernel verification: each is tried on a small case on its device before its first use."""

import logging
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .autograd import autocast_off
from .dispatch import constant_in_graphs, is_capturing

_logger = logging.getLogger('mmrest.ops')

_verdicts: Dict[tuple, Optional[str]] = {}
"""Name, device, dtype and channels of a kernel -> why it is not used, or None."""

MIN_TOLERANCE = 1e-4
"""Tolerance relative to the largest value; in half precision it is 8 machine epsilons."""


class Candidate(NamedTuple):
    """A kernel, its reference in PyTorch, and how to try it.

    The trial returns the arguments of a small case with the dtype and channels of q and v.
    """

    run: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    trial: Callable[[Tensor, Tensor], Sequence[Any]]


candidates: Dict[str, Candidate] = {}
"""Kernels by the name of their attention."""


@constant_in_graphs
def refuse_untrusted(
    name: str, device: torch.device, dtype: torch.dtype, dim: int, channels: int
) -> Optional[str]:
    """Return why a kernel in :data:`candidates` is not used, or None.

    It is tried for a device, a dtype, and the numbers of channels of a head of queries and keys
    (`dim`) and of values: at the first call, or while a graph is compiled. A failure is logged
    once as a warning.
    """
    key = name, device, dtype, dim, channels
    if key not in _verdicts:
        if is_capturing(device):
            return 'a CUDA graph is being captured before the kernel has been tried'
        q, v = (torch.empty(size, dtype=dtype, device=device) for size in (dim, channels))
        _verdicts[key] = reason = failure(candidates[name], q, v)
        if reason is not None:
            _logger.warning(
                '%s: the Triton kernel is not used for %s on %s, PyTorch computes it: %s',
                name, dtype, device, reason,
            )  # fmt: skip
    return _verdicts[key]


def failures() -> Set[str]:
    """Return the reasons why kernels have failed their trials so far."""
    return {reason for reason in _verdicts.values() if reason is not None}


@torch.inference_mode(False)
@torch.enable_grad()
def failure(kernel: Candidate, q: Tensor, v: Tensor) -> Optional[str]:
    """Return how a kernel fails or deviates from float64, forward or backward, or None.

    The query `q` (d,) and the value `v` (d_v,) have the device and dtype of the trial.
    """
    # Hooks and modes of activation checkpointing would recompute the block that this is in.
    unhooked = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
    with _disable_current_modes(), unhooked, autocast_off(q.device):
        args = kernel.trial(q, v)
        try:
            computed = _outputs_and_gradients(kernel.run, args)
        except Exception as error:  # compilers and drivers raise anything
            return f'{type(error).__name__}: {str(error).strip()}'.split('\n')[0]
        expected = _outputs_and_gradients(kernel.reference, [_wide(arg) for arg in args])
    tolerance = max(8 * torch.finfo(q.dtype).eps, MIN_TOLERANCE)
    for index, (a, b) in enumerate(zip(computed, expected)):
        error = float((a.double() - b).abs().max() / b.abs().max().clamp_min(1e-3))
        if not error <= tolerance:  # or NaN
            what = f'the gradient of argument {index - 1}' if index else 'the result'
            return f'{what} deviates by {error:.1e} of its largest value'
    return None


def _outputs_and_gradients(function: Callable[..., Tensor], args: Sequence[Any]) -> List[Tensor]:
    args = [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in args]
    leaves = [x for x in args if isinstance(x, Tensor)]
    out = function(*args)
    return [out.detach(), *torch.autograd.grad(out, leaves, filled(out.shape, out))]


def _wide(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.double()
    return type(x)(*map(_wide, x)) if isinstance(x, tuple) else x


def filled(shape: Tuple[int, ...], like: Tensor, step: float = 0.7) -> Tensor:
    """Return values from -1 to 1 on the device of `like`, in its dtype, without random numbers."""
    count = torch.Size(shape).numel()
    values = torch.arange(count, device=like.device, dtype=torch.float64) * step
    return values.sin().view(shape).to(like.dtype)
