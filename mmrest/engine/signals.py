"""Graceful stops on signals; children inherit no handlers, and end with the run."""

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Callable, Dict, Iterator, Optional

import torch
from mmengine.dist import all_reduce, get_world_size

from .compat import wrap_worker_init

_SIGHUP = getattr(signal, 'SIGHUP', None)  # not on Windows
_LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None

_in_run: Optional[bool] = None
"""True in a :class:`StopRequest`; False after it, when children are left as they are; None before
it, and in spawned processes."""

_forking = threading.local()
"""Signal mask of the thread that forks, and its process if it is the main thread, because
PR_SET_PDEATHSIG acts when the forking thread ends."""


class StopRequest:
    """Context manager that catches SIGTERM, SIGHUP and Ctrl-C.

    SIGHUP says that the terminal was closed; nohup ignores it. A second SIGTERM or Ctrl-C ends the
    process; SIGHUP never does. In distributed runs, Ctrl-C is left to the launcher, and so is the
    end of the process: the launcher repeats the other signals.
    """

    def __init__(self) -> None:
        self.name = 'SIGTERM'  # signal received, for messages
        self._asked = False
        self._calls, self._gap = 0, 1  # since the last exchange, and until the next
        self._exchanged = time.monotonic()
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> 'StopRequest':
        global _in_run
        isolate_children()
        self._was_in_run, _in_run = bool(_in_run), True
        if _in_main_thread():  # only this one may set handlers
            from_terminal = _SIGHUP, signal.SIGINT if get_world_size() == 1 else None
            # Shells ignore them for what runs in the background, and so does nohup.
            caught = [n for n in from_terminal if n and signal.getsignal(n) is not signal.SIG_IGN]
            for number in (signal.SIGTERM, *caught):
                self._before[number] = signal.signal(number, self._listen) or signal.SIG_DFL
        return self

    def __exit__(self, *error: Any) -> None:
        global _in_run
        _in_run = self._was_in_run
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _listen(self, number: int, frame: Any) -> None:
        self._asked = True
        if get_world_size() == 1 and number != _SIGHUP:  # the shell and the kernel send one each
            for waited in self._before.keys() - {_SIGHUP}:
                signal.signal(waited, self._before[waited])
        if number == signal.SIGTERM:
            return
        self.name = 'Ctrl-C' if number == signal.SIGINT else 'SIGHUP'
        text = b'finishing this iteration; press Ctrl-C again to stop immediately\n'
        for output, line in ((1, b'\n'), (2, text)):
            try:
                os.write(output, line)  # the signal may have interrupted print
            except OSError:  # the terminal is gone, or the same Ctrl-C has ended tee
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)

    def asked(self, at_once: bool = False) -> bool:
        """Return True if any rank was asked to stop; all ranks call this equally often.

        The ranks exchange it about every second, at least in every tenth call, or `at_once`:
        launchers wait only 30 s or so before they kill.
        """
        if get_world_size() == 1:
            return self._asked
        self._calls += 1
        if self._calls < self._gap and not at_once:  # an exchange takes time
            return False
        anywhere = torch.tensor([self._asked, time.monotonic() - self._exchanged])
        all_reduce(anywhere, 'max')
        seconds = float(anywhere[1]) / self._calls
        self._gap = min(10, 1 + int(1 / max(seconds, 0.1)))
        self._calls, self._exchanged = 0, time.monotonic()
        return bool(anywhere[0])


@lru_cache(maxsize=None)  # installed once
def isolate_children() -> None:
    """Make child processes start without the handlers of a run and end with their parent.

    With an inherited handler, ``multiprocessing.Pool`` could not terminate its workers. Workers
    whose parent was killed would wait forever on pipes that their siblings keep open; on Linux the
    kernel kills them. Data loading workers ignore the signals: torchrun, Slurm and terminals send
    them to all processes, and without workers a run could not finish its iteration.
    """
    wrap_worker_init(begin_worker)
    # Spawned workers unpickle it, and import mmrest, before a dataset that needs its ops.
    multiprocessing.current_process()._config['mmrest'] = begin_worker
    if hasattr(os, 'register_at_fork'):  # not on Windows
        os.register_at_fork(
            before=_before_fork, after_in_parent=_restore_mask, after_in_child=_begin_child
        )
    atexit.register(_end_workers)


@contextmanager
def interrupted_by_termination() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, so that a program can save its results.

    SIGHUP stays ignored under nohup.
    """
    given = filter(None, (signal.SIGTERM, _SIGHUP))
    numbers = [number for number in given if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def begin_worker(init: Optional[Callable[..., None]], *args: Any, **kwargs: Any) -> None:
    """Initialise a data loading worker, also by the loader's own `init`."""
    if _in_run is not False:
        for number in filter(None, (signal.SIGTERM, signal.SIGINT, _SIGHUP)):
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, 'pthread_sigmask'):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if init is not None:
        init(*args, **kwargs)


@contextmanager
def blocked_sigterm() -> Iterator[None]:
    """Block SIGTERM while workers are forked, and in workers until they ignore it."""
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _before_fork() -> None:
    # A pool may terminate a worker before the worker has reset the handler; Python drops what
    # arrives until then, but the kernel keeps a blocked signal.
    _forking.parent = os.getpid() if _in_main_thread() else None
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _restore_mask() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _begin_child() -> None:
    if _in_run is not False:
        if callable(signal.getsignal(signal.SIGTERM)):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGINT, _SIGHUP):
            if isinstance(getattr(signal.getsignal(number), '__self__', None), StopRequest):
                # A pool would wait forever for the task of a worker that the signal has ended.
                # Unlike SIG_IGN, programs executed by the child do not inherit a function.
                signal.signal(number, lambda *args: None)
        if _forking.parent is not None:
            end_with(_forking.parent)
    _restore_mask()


def end_with(parent: int, number: int = getattr(signal, 'SIGKILL', 9)) -> None:
    """On Linux, make the kernel send a signal, by number, when the parent has ended."""
    if _LIBC is not None:
        _LIBC.prctl(1, number)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it has ended in the meantime
            os._exit(1)


def _end_workers() -> None:
    """Kill workers that an error left behind.

    multiprocessing would send them SIGTERM, which they ignore, and wait forever.
    """
    if hasattr(signal, 'SIGCHLD'):  # not on Windows
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise when one is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
