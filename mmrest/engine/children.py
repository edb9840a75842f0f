"""Child processes of a run: they inherit no signal handler and do not outlive it."""

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
"""Process that forks, if by its main thread: the kernel signals the end of a thread."""


def isolate_children() -> None:
    """Have every child process start with the default SIGTERM and end with its parent.

    With an inherited handler, ``multiprocessing.Pool`` could not terminate its workers. Workers
    whose parent was killed would wait forever on pipes that their siblings keep open; on Linux the
    kernel kills them. Data loading workers ignore SIGTERM: torchrun and Slurm send it to all
    processes, and without workers a run could not finish its iteration.
    """
    if not wrap_worker_init(begin_worker):
        return
    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(before=_before_fork, after_in_child=_begin_child)
    atexit.register(_end_workers)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (Linux only).

    Args:
        parent: process ID of the parent.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended in between
        os._exit(1)


@contextmanager
def held_sigterm() -> Iterator[None]:
    """Block SIGTERM while workers are forked, and in workers until they ignore it."""
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
    """Initialise a data loading worker.

    Args:
        init: the loader's own initialisation, called with the other arguments.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, 'pthread_sigmask'):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if init is not None:
        init(*args, **kwargs)


def _end_workers() -> None:
    """Kill workers that an error left behind.

    multiprocessing would send them the signal that they ignore, and wait forever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise when one is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
