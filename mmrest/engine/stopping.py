"""A cluster's request to stop, which a run grants at the end of an iteration."""

import atexit
import multiprocessing
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Optional, Type

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.runner import runner

STOPPED = 75
"""Exit status of a run that was asked to stop and has saved what it had (EX_TEMPFAIL)."""

_INTERVAL = 10
"""Iterations between two times that the processes of a run tell one another."""


class StopRequest:
    """Listens for SIGTERM while it is entered; a second one ends the process as ever."""

    def __init__(self) -> None:
        self._asked = False
        self._before = signal.SIG_DFL
        self._calls = 0

    def __enter__(self) -> 'StopRequest':
        # Only the main thread may listen; a run in another one is left as it is.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._listen)
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def _listen(self, number: int, frame: Optional[FrameType]) -> None:
        self._asked = True
        signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def asked(self) -> bool:
        """Whether one of the processes was asked to stop; all call this as often."""
        if get_world_size() == 1:
            return self._asked
        self._calls += 1
        if self._calls % _INTERVAL:
            return False
        anywhere = torch.tensor(int(self._asked))
        all_reduce(anywhere, 'max')
        return bool(anywhere)

    def asked_here(self) -> bool:
        """Whether this process was asked to stop, and is the only one of its run."""
        return self._asked and get_world_size() == 1


def have_workers_wait() -> None:
    """Have the workers that load data go on when all processes of a run are asked to stop.

    torchrun and Slurm tell the whole group. Without its workers a run could not finish its
    iteration; they end when it does.
    """
    runner.default_worker_init_fn = _begin_worker
    atexit.register(_end_workers)


_worker_init_fn = runner.default_worker_init_fn


def _begin_worker(*args: Any, **kwargs: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _worker_init_fn(*args, **kwargs)


def _end_workers() -> None:
    """End the workers that an error has left.

    multiprocessing would ask them with the signal that they ignore, and wait for ever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise where one is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
