"""Whether the Triton kernels can take given tensors."""

import functools
import importlib.util
from contextlib import nullcontext
from typing import ContextManager, Optional

import torch
from torch import Tensor

from .backend import forced_backend, refuse_in_graphs

MOST_CHANNELS = 128
"""Of a head: more would not fit into a tile."""

CAPABILITY = (8, 0)
"""Of the GPU, that of the A100; older ones have no bfloat16 products."""


def refuse_triton(q: Tensor, k: Tensor, v: Tensor) -> Optional[str]:
    """Why the kernels cannot take queries, keys and values; None if they can.

    On the CPU they run in Triton's interpreter, where ``TRITON_INTERPRET=1`` was set before their
    first use; being slow, only where they are forced.
    """
    in_graph = refuse_in_graphs()
    if in_graph is not None:  # first, because torch 2.12 cannot compile the search for Triton
        return in_graph
    if torch.version.hip is not None:
        return 'the kernels are made for NVIDIA GPUs'
    if not _has_triton():
        return 'Triton is not installed'
    if q.is_cuda:
        if torch.cuda.get_device_capability(q.device) < CAPABILITY:
            return f'the GPU is older than compute capability {".".join(map(str, CAPABILITY))}'
        if q.dtype is torch.float64:
            return 'float64 is left to PyTorch'
    elif not _interpreted(q):
        return f'the tensors are on {q.device.type}, and not in an interpreter that is forced'
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        return f'the types {q.dtype}, {k.dtype} and {v.dtype} are not the same'
    if max(q.shape[-1], v.shape[-1]) > MOST_CHANNELS:
        return f'a head of {max(q.shape[-1], v.shape[-1])} channels is larger than {MOST_CHANNELS}'
    return None


@functools.lru_cache(maxsize=None)
def _has_triton() -> bool:
    """Searched for once: that takes as long as a small layer."""
    return importlib.util.find_spec('triton') is not None


def _interpreted(q: Tensor) -> bool:
    if q.device.type != 'cpu' or forced_backend() != 'triton':
        return False
    from .kernels.tiles import INTERPRETED

    return INTERPRETED.value


def on_device_of(tensor: Tensor) -> ContextManager:
    """Context in which Triton launches kernels on the device of a tensor."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
