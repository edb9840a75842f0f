"""Graceful SIGTERM handling: finish the iteration, save, exit."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Optional, Type

import torch
from mmengine.dist import all_reduce, get_world_size

from .children import isolate_children

STOPPED = 75
"""Exit status of a preempted run that has saved its state (EX_TEMPFAIL)."""

_INTERVAL = 10
"""Iterations between two exchanges among the ranks of a run."""


class StopRequest:
    """Context that catches SIGTERM; a second one ends the process as usual."""

    def __init__(self) -> None:
        self._asked = False
        self._before = signal.SIG_DFL
        self._calls = 0

    def __enter__(self) -> 'StopRequest':
        isolate_children()
        # Only the main thread may set handlers; a run in another one is left alone.
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
        """Return True if any rank was asked to stop; all ranks call this equally often."""
        if get_world_size() == 1:
            return self._asked
        self._calls += 1
        if self._calls % _INTERVAL:
            return False
        anywhere = torch.tensor(int(self._asked))
        all_reduce(anywhere, 'max')
        return bool(anywhere)

    def asked_here(self) -> bool:
        """Return True if this process was asked to stop and is the only one of its run."""
        return self._asked and get_world_size() == 1
