"""Backend dispatch: the first supported implementation, or the forced one.

An operation lists its implementations in order of preference; the last one always runs. An
implementation can refuse inputs; the reason is logged once, at debug level, under ``mmrest.ops``.
"""

import functools
import logging
import os
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

ENVIRONMENT_VARIABLE = 'MMREST_BACKEND'
BACKENDS = ('triton', 'torch', 'reference')

_logger = logging.getLogger('mmrest.ops')


class _Choice(threading.local):
    """Backend of :func:`use_backend` and list of :func:`observed`, in one thread."""

    name: Optional[str] = None
    observed: Optional[List[Tuple[str, Optional[str]]]] = None


_choice = _Choice()


class Implementation(NamedTuple):
    """Implementation of an operation."""

    backend: str  # one of BACKENDS
    run: Callable[..., Tensor]
    # Arguments of `run` -> why it cannot run, or None; by default, it supports all inputs.
    refusal: Callable[..., Optional[str]] = lambda *_: None


class Operation:
    """Attention with its implementations, the preferred one first."""

    def __init__(self, name: str, implementations: Sequence[Implementation]) -> None:
        self.name = name
        self.implementations = tuple(implementations)

    def __call__(self, *args: Any) -> Tensor:
        """Run the first implementation that supports the arguments, or the forced one.

        Raises:
            ValueError: a forced backend lacks the operation or does not support the inputs.
        """
        forced = forced_backend()
        reasons = []
        for backend, run, refusal in self.implementations:
            if forced is not None and backend != forced:
                continue
            reason = refusal(*args)
            if _choice.observed is not None:
                _choice.observed.append((backend, reason))
            if reason is None:
                return run(*args)
            reasons.append(reason)
            if not is_compiling() and _logger.isEnabledFor(logging.DEBUG):
                _log_once(self.name, backend, reason)
        known = ', '.join(backend for backend, _, _ in self.implementations)
        why = '; '.join(reasons) or f'it has {known}'
        raise ValueError(f'{self.name}: the backend {forced!r} cannot run: {why}')


@functools.lru_cache(maxsize=None)
def _log_once(name: str, backend: str, reason: str) -> None:
    _logger.debug('%s: %s cannot run: %s', name, backend, reason)


def forced_backend() -> Optional[str]:
    """Return the name of the forced backend, or None if each operation may choose.

    Raises:
        ValueError: the environment variable is not a valid backend.
    """
    if _choice.name is not None:
        return _choice.name
    name = os.environ.get(ENVIRONMENT_VARIABLE) or None
    return None if name is None else _checked(name, ENVIRONMENT_VARIABLE)


@contextmanager
def use_backend(name: Optional[str]) -> Iterator[None]:
    """Force all attention in this context and thread to use one backend.

    The environment variable ``MMREST_BACKEND`` does the same for a process, but the context takes
    precedence. Blocks recomputed in the backward pass use the same backend as the forward pass.

    Args:
        name: one of :data:`BACKENDS`; None has no effect.

    Raises:
        ValueError: `name` is not a valid backend.
    """
    with exactly_backend(_choice.name if name is None else _checked(name, 'use_backend')):
        yield


@contextmanager
def exactly_backend(name: Optional[str]) -> Iterator[None]:
    """Use a result of :func:`forced_backend` inside the context; None forces no backend."""
    before, _choice.name = _choice.name, name
    try:
        yield
    finally:
        _choice.name = before


@contextmanager
def observed() -> Iterator[List[Tuple[str, Optional[str]]]]:
    """Yield a list that receives each implementation tried in this thread: backend and refusal."""
    before, _choice.observed = _choice.observed, []
    try:
        yield _choice.observed
    finally:
        _choice.observed = before


def _checked(name: str, origin: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f'{origin}: unknown backend {name!r}; choose one of {BACKENDS}')
    return name


def is_compiling() -> bool:
    """Return True inside torch.compile or torch.export."""
    if not hasattr(torch.compiler, 'is_compiling'):  # torch < 2.3
        return torch._dynamo.is_compiling()
    return torch.compiler.is_compiling()


def in_graph() -> bool:
    """Return True if the network is being compiled, exported or traced."""
    return is_compiling() or torch.jit.is_tracing()


def constant_in_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function as run while a graph is compiled, with a constant result.

    Like ``torch.compiler.assume_constant_result``, which would load the compiler on import.
    """
    function._dynamo_marked_constant = True
    return function


def is_capturing(device: torch.device) -> bool:
    """Return True while a CUDA graph is being captured."""
    if device.type != 'cuda' or not torch.cuda.is_initialized():  # fake tensors do without CUDA
        return False
    return torch.cuda.is_current_stream_capturing()


@constant_in_graphs
def _is_exporting() -> bool:
    # A constant, because the compiler of torch 2.7 evaluates torch.compiler.is_exporting to True.
    # Older releases lack it.
    return not hasattr(torch.compiler, 'is_exporting') or torch.compiler.is_exporting()


def in_exported_graph() -> bool:
    """Return True if the network is exported or traced, so may run without mmrest."""
    return torch.jit.is_tracing() or (is_compiling() and _is_exporting())


def are_static(*sizes: int) -> bool:
    """Return True if no size can change: in eager mode, or in a compiled graph without symbols."""
    if not in_graph():
        return True
    if in_exported_graph():
        return False
    from torch.fx.experimental import symbolic_shapes  # loads sympy

    if not hasattr(symbolic_shapes, 'has_static_value'):  # as in torch 2.7
        return False
    return all(map(symbolic_shapes.has_static_value, sizes))


def refuse_in_graphs(*_: Any) -> Optional[str]:
    """Refuse graphs and transforms, for implementations with loops or a custom backward."""
    if in_graph():
        return 'the network is being compiled or exported'
    return refuse_transforms()


def refuse_transforms() -> Optional[str]:
    """Refuse transforms of torch.func, such as grad and vmap, for a custom backward."""
    if torch._C._are_functorch_transforms_active():
        return 'a transform of torch.func takes standard ops only'
    return None
