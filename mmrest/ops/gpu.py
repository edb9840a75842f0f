"""Triton kernels as implementations: supported inputs, and launch."""

import functools
import importlib
from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .dispatch import Implementation, forced_backend, refuse_in_graphs
from .trust import refuse_untrusted

MAX_CHANNELS = 128
"""Maximum channels of a head, which must fit into a tile."""

MIN_TRITON = (3, 3)
"""Oldest release that compiles the kernels; torch 2.7 has it."""

MIN_CAPABILITY = (8, 0)
"""Oldest compute capability, of the A100; older GPUs have no bfloat16 matmuls."""


def triton_implementation(
    package: str,
    name: str,
    reference: Callable[..., Tensor],
    trial: Callable[[Tensor, Tensor], Sequence[Any]],
) -> Implementation:
    """Return the function ``package.triton.name`` of :mod:`mmrest.ops` as an implementation.

    Its module is imported at first use, because Triton is optional. On a GPU it is first tried on
    a small case, see :mod:`.trust`.

    Args:
        package: package of the kernel.
        name: name of the function.
        reference: reference implementation in PyTorch.
        trial: queries and values -> arguments of a small case of the same dtype and channels.
    """

    def run(*args: Any) -> Tensor:
        return getattr(importlib.import_module(f'{__package__}.{package}.triton'), name)(*args)

    def refusal(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Optional[str]:
        reason = refuse_triton(q, k, v)
        if reason is None and q.is_cuda:
            reason = refuse_untrusted(name, run, reference, trial, q, v)
        return reason

    return Implementation('triton', run, refusal)


def refuse_triton(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Optional[str]:
    """Return why the kernels cannot run on queries, keys and values, or None.

    On the CPU they run in Triton's interpreter, if ``TRITON_INTERPRET=1`` was set before their
    first use. It is slow, so they must be forced.
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
        if torch.cuda.get_device_capability(q.device) < MIN_CAPABILITY:
            return f'the GPU is older than compute capability {_version(MIN_CAPABILITY)}'
        if q.dtype is torch.float64:
            return 'the kernels do not support float64 on a GPU'
        if q.dtype is torch.float32 and forced_backend() != 'triton':
            return 'in float32 PyTorch is faster'  # its matmuls may use tensor cores
    else:
        from .tiles import INTERPRETED

        if not INTERPRETED.value:
            return 'the kernels run on a CPU only if TRITON_INTERPRET=1 is set'
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        return f'the dtypes {q.dtype}, {k.dtype} and {v.dtype} differ or are not floating point'
    channels = max(q.shape[-1], v.shape[-1])
    if channels > MAX_CHANNELS:
        return f'a head of {channels} channels is larger than {MAX_CHANNELS}'
    return None


@functools.lru_cache(maxsize=None)
def _triton_refusal() -> Optional[str]:
    """Return why the installed Triton is not supported; cached, because importing is slow."""
    try:
        import triton
    except ImportError:
        return 'Triton is not installed'
    if tuple(map(int, triton.__version__.split('.')[:2])) < MIN_TRITON:
        return f'Triton {triton.__version__} is older than {_version(MIN_TRITON)}'
    return None


def _version(numbers: Tuple[int, ...]) -> str:
    return '.'.join(map(str, numbers))


def on_device_of(tensor: Tensor) -> ContextManager:
    """Return a context in which Triton launches kernels on the device of a tensor."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
