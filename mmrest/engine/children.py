"""Processes that a run forks: they inherit no signal handler and do not outlive it."""

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

from .compat import wrap_worker_init

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None

_parent: Optional[int] = None
"""Process that forks, if its main thread does: the kernel signals the end of a thread."""


def isolate_children() -> None:
    """Have every process that this one forks begin with the default SIGTERM and end with it.

    A handler of the parent would keep the workers of a ``multiprocessing.Pool`` from being
    terminated, and workers whose parent is killed would wait for ever on the pipes that their
    siblings hold open. The kernel kills them on Linux. Workers that load data ignore SIGTERM:
    torchrun and Slurm send it to all processes of a run, which could not finish its iteration
    without them.
    """
    if not wrap_worker_init(begin_worker):
        return
    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(before=_before_fork, after_in_child=_begin_child)
    atexit.register(_end_workers)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; on Linux alone.

    Args:
        parent: process number of the parent.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended in between
        os._exit(1)


@contextmanager
def held_sigterm() -> Iterator[None]:
    """Hold SIGTERM back while workers are forked, for them too until they ignore it."""
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _before_fork() -> None:
    global _parent
    main = threading.current_thread() is threading.main_thread()
    _parent = os.getpid() if main else None


def _begin_child() -> None:
    if callable(signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if _parent is not None:
        end_with_parent(_parent)


def begin_worker(init: Optional[Callable[..., None]], *args: Any, **kwargs: Any) -> None:
    """Begin a worker that loads data.

    Args:
        init: what else it begins with; called with the other arguments.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, 'pthread_sigmask'):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if init is not None:
        init(*args, **kwargs)


def _end_workers() -> None:
    """End the workers that an error has left.

    multiprocessing would ask them with the signal that they ignore, and wait for ever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise where one is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
