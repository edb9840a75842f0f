"""Errors for the user of a command, and lists of names in their messages."""

from typing import Any, Iterable

STOPPED = 75
"""Exit status of a preempted run that has saved its state (EX_TEMPFAIL)."""


class UsageError(Exception):
    """User-facing error with a one-line message: cause and fix."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or does not match; the message is for the user."""


class Interrupted(SystemExit):
    """A preempted run that has saved its state; any script exits with :data:`STOPPED`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = STOPPED


def some(names: Iterable[Any], most: int = 6) -> str:
    """Return the first `most` names and the number of the others."""
    names = [str(name) for name in names]
    more = f', … {len(names) - most} more' if len(names) > most else ''
    return (', '.join(names[:most]) or 'none') + more
