"""Whether the Triton kernels can take given tensors."""

import functools
from contextlib import nullcontext
from typing import Any, ContextManager, Optional

import torch
from torch import Tensor

from .dispatch import forced_backend, refuse_in_graphs

MOST_CHANNELS = 128
"""Of a head: more would not fit into a tile."""

TRITON = (3, 3)
"""The oldest release that compiles the kernels, that of torch 2.7."""

CAPABILITY = (8, 0)
"""Of the GPU, that of the A100; older ones have no bfloat16 products."""


def refuse_triton(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Optional[str]:
    """Why the kernels cannot take queries, keys and values; None if they can.

    On the CPU they run in Triton's interpreter, where ``TRITON_INTERPRET=1`` was set before their
    first use; being slow, only where they are forced.
    """
    in_graph = refuse_in_graphs()
    if in_graph is not None:  # first, because torch 2.12 cannot compile the search for Triton
        return in_graph
    if torch.version.hip is not None:
        return 'the kernels are made for NVIDIA GPUs'
    if not q.is_cuda and (q.device.type != 'cpu' or forced_backend() != 'triton'):
        return f'the tensors are on {q.device.type}, and the kernels need an NVIDIA GPU'
    reason = _triton_refusal()
    if reason is not None:
        return reason
    if q.is_cuda:
        if torch.cuda.get_device_capability(q.device) < CAPABILITY:
            return f'the GPU is older than compute capability {".".join(map(str, CAPABILITY))}'
        if q.dtype is torch.float64:
            return 'float64 is left to PyTorch'
    elif not _interpreted():
        return 'the tensors are on cpu, and Triton does not interpret: set TRITON_INTERPRET=1'
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        return f'the types {q.dtype}, {k.dtype} and {v.dtype} are not the same'
    if max(q.shape[-1], v.shape[-1]) > MOST_CHANNELS:
        return f'a head of {max(q.shape[-1], v.shape[-1])} channels is larger than {MOST_CHANNELS}'
    return None


@functools.lru_cache(maxsize=None)
def _triton_refusal() -> Optional[str]:
    """Why the Triton of this environment will not do; looked up once, for that takes long."""
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
    """Context in which Triton launches kernels on the device of a tensor."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
