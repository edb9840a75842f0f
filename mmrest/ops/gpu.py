"""Check that the Triton kernels support given tensors."""

import functools
from contextlib import nullcontext
from typing import Any, ContextManager, Optional

import torch
from torch import Tensor

from .dispatch import forced_backend, refuse_in_graphs

MOST_CHANNELS = 128
"""Channels of a head that fit into a tile."""

TRITON = (3, 3)
"""Oldest release that compiles the kernels, the one of torch 2.7."""

CAPABILITY = (8, 0)
"""Oldest compute capability, the one of the A100; older GPUs have no bfloat16 products."""


def refuse_triton(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Optional[str]:
    """Return why the kernels cannot run on queries, keys and values; None if they can.

    On the CPU they run in Triton's interpreter if ``TRITON_INTERPRET=1`` was set before their
    first use; it is slow, so only if they are forced.
    """
    in_graph = refuse_in_graphs()
    if in_graph is not None:  # first, because torch 2.12 cannot compile the search for Triton
        return in_graph
    if torch.version.hip is not None:
        return 'the Triton kernels support NVIDIA GPUs only'
    if not q.is_cuda and (q.device.type != 'cpu' or forced_backend() != 'triton'):
        return f'the tensors are on {q.device.type}, and the kernels need an NVIDIA GPU'
    reason = _triton_refusal()
    if reason is not None:
        return reason
    if q.is_cuda:
        if torch.cuda.get_device_capability(q.device) < CAPABILITY:
            return f'the GPU is older than compute capability {".".join(map(str, CAPABILITY))}'
        if q.dtype is torch.float64:
            return 'the kernels do not support float64 on a GPU'
    elif not _interpreted():
        return (
            'the tensors are on cpu, and Triton is not in its interpreter: set TRITON_INTERPRET=1'
        )
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        return f'the dtypes {q.dtype}, {k.dtype} and {v.dtype} differ or are not floating point'
    if max(q.shape[-1], v.shape[-1]) > MOST_CHANNELS:
        return f'a head of {max(q.shape[-1], v.shape[-1])} channels is larger than {MOST_CHANNELS}'
    return None


@functools.lru_cache(maxsize=None)
def _triton_refusal() -> Optional[str]:
    """Return why the installed Triton is not supported; cached, because importing is slow."""
    try:
        import triton
    except ImportError:
        return 'Triton is not installed'
    if tuple(map(int, triton.__version__.split('.')[:2])) < TRITON:
        return f'Triton {triton.__version__} is older than {".".join(map(str, TRITON))}'
    return None


def _interpreted() -> bool:
    from .tiles import INTERPRETED

    return INTERPRETED.value


def on_device_of(tensor: Tensor) -> ContextManager:
    """Return a context in which Triton launches kernels on the device of a tensor."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
