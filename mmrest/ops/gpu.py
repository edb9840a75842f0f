"""Triton kernels as implementations: supported inputs, and launch."""

import functools
import importlib
import operator
from types import ModuleType
from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from .dispatch import (
    Implementation,
    constant_in_graphs,
    forced_backend,
    in_exported_graph,
    in_graph,
    refuse_transforms,
)
from .trust import Candidate, candidates, refuse_untrusted

MAX_CHANNELS = 128
"""Maximum channels of a head, which must fit into a tile."""

MIN_TRITON = (3, 3)
"""Oldest Triton release that compiles the kernels; torch 2.7 includes it."""

MIN_CAPABILITY = (8, 0)
"""Oldest compute capability, of the A100; older GPUs have no bfloat16 matmuls."""


def triton_implementation(name: str, package: str, candidate: Candidate) -> Implementation:
    """Return kernels of :mod:`mmrest.ops` as an implementation.

    Their module, ``package.triton``, is imported at first use, because Triton is optional. On a
    GPU they are first tried on a small case, see :mod:`.trust`.
    """
    candidates[name] = candidate

    def refusal(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Optional[str]:
        reason = refuse_triton(q, k, v)
        if reason is None:
            _load(package)  # registers its operator
            if q.is_cuda:
                channels = map(operator.index, (q.shape[-1], v.shape[-1]))  # no symbols
                reason = refuse_untrusted(name, q.device, q.dtype, *channels)
        return reason

    return Implementation('triton', candidate.run, refusal)


@constant_in_graphs
def _load(package: str) -> ModuleType:
    return importlib.import_module(f'{__package__}.{package}.triton')


def run_operator(package: str, *args: Any) -> Tensor:
    """Return the first output of the operator ``mmrest::package``, an attention in Triton."""
    if in_graph():
        return getattr(torch.ops.mmrest, package)(*args)[0]
    return _load(package).run_eagerly(*args)[0]


def refuse_triton(q: Tensor, k: Tensor, v: Tensor) -> Optional[str]:
    """Return why the kernels cannot run on queries, keys and values, or None.

    On the CPU they run in Triton's interpreter, if ``TRITON_INTERPRET=1`` was set before their
    first use. It is slow, so they must be forced.
    """
    if in_exported_graph():
        return 'the network is being exported'
    if not q.is_cuda and (q.device.type != 'cpu' or forced_backend() != 'triton'):
        return f'the kernels need an NVIDIA GPU, and the device is {q.device.type}'
    reason = refuse_transforms() or _device_refusal(q.device)
    if reason is not None:
        return reason
    if q.is_cuda:
        if q.dtype is torch.float64:
            return 'the kernels do not support float64 on a GPU'
        if q.dtype is torch.float32 and forced_backend() != 'triton':
            return 'in float32 PyTorch is faster'  # its matmuls may use tensor cores
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        return f'the dtypes {q.dtype}, {k.dtype} and {v.dtype} differ or are not floating point'
    channels = max(q.shape[-1], v.shape[-1])
    if channels > MAX_CHANNELS:
        return f'a head of {channels} channels is larger than {MAX_CHANNELS}'
    return None


@constant_in_graphs
def _device_refusal(device: torch.device) -> Optional[str]:
    if torch.version.hip is not None:
        return 'the Triton kernels support NVIDIA GPUs only'
    reason = _triton_refusal()
    if reason is not None:
        return reason
    if device.type == 'cuda':
        if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
            return f'the GPU is older than compute capability {_version(MIN_CAPABILITY)}'
        return None
    from .tiles import INTERPRETED

    reason = 'the kernels run on a CPU only if TRITON_INTERPRET=1 is set'
    return None if INTERPRETED.value else reason


@functools.lru_cache(maxsize=None)
def _triton_refusal() -> Optional[str]:
    """Return why the installed Triton is not supported; cached, because importing is slow."""
    if not hasattr(torch.library, 'custom_op'):
        return f'torch {torch.__version__} is older than 2.4'
    try:
        import triton
    except ImportError:
        return 'Triton is not installed'
    if tuple(map(int, triton.__version__.split('.')[:2])) < MIN_TRITON:
        return f'Triton {triton.__version__} is older than {_version(MIN_TRITON)}'
    return None


def _version(numbers: Tuple[int, ...]) -> str:
    return '.'.join(map(str, numbers))
