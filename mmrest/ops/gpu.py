"""Triton kernels as implementations: supported inputs, launch, and a trial before first use."""

import functools
import importlib
import logging
import operator
from types import ModuleType
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor

from .autograd import autocast_off
from .dispatch import (
    Implementation,
    constant_in_graphs,
    forced_backend,
    in_exported_graph,
    in_graph,
    refuse_transforms,
)

_logger = logging.getLogger('mmrest.ops')

MAX_CHANNELS = 128
"""Maximum channels of a head, which must fit into a tile."""

MIN_TRITON = (3, 3)
"""Oldest Triton release that compiles the kernels; torch 2.7 includes it."""

MIN_CAPABILITY = (8, 0)
"""Oldest compute capability, of the A100; older GPUs have no bfloat16 matmuls."""

MIN_TOLERANCE = 1e-4
"""Tolerance of a trial relative to the largest value; in half precision, 8 machine epsilons."""

_verdicts: Dict[tuple, Optional[str]] = {}
"""Name, device, dtype and channels of a kernel -> why it is not used, or None."""


class Candidate(NamedTuple):
    """A kernel, its reference in PyTorch, and how to try it.

    The trial returns the arguments of a small case with the dtype and channels of q and v.
    """

    run: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    trial: Callable[[Tensor, Tensor], Sequence[Any]]


candidates: Dict[str, Candidate] = {}
"""Kernels by the name of their attention."""


def triton_implementation(name: str, package: str, candidate: Candidate) -> Implementation:
    """Return kernels of :mod:`mmrest.ops` as an implementation.

    Their module, ``package.triton``, is imported at first use, because Triton is optional. On a
    GPU they are first tried on a small case, see :func:`refuse_untrusted`.
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


def refuse_triton(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Optional[str]:
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
        if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
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


def failure(kernel: Candidate, q: Tensor, v: Tensor) -> Optional[str]:
    """Return how a kernel fails or deviates from float64, forward or backward, or None.

    The query `q` (d,) and the value `v` (d_v,) have the device and dtype of the trial.
    """
    with torch.inference_mode(False), torch.enable_grad(), autocast_off(q.device):
        args = kernel.trial(q, v)
        try:
            found = _outputs_and_gradients(kernel.run, args)
        except Exception as error:  # compilers and drivers raise anything
            return f'{type(error).__name__}: {str(error).strip()}'.split('\n')[0]
        wanted = _outputs_and_gradients(kernel.reference, [_wide(arg) for arg in args])
    tolerance = max(8 * torch.finfo(q.dtype).eps, MIN_TOLERANCE)
    for index, (a, b) in enumerate(zip(found, wanted)):
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
