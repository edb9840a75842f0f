"""Errors for the user of a command, and lists of names in their messages."""

from typing import Any, Iterable


class UsageError(Exception):
    """User-facing error with a one-line message: cause and fix."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or does not match; the message is for the user."""


class Interrupted(BaseException):
    """A run that a signal stopped, and that has saved its state; no error handler may catch it.

    Args:
        message: what was saved where, for the user.
        by: the signal.
    """

    def __init__(self, message: str, by: int) -> None:
        super().__init__(message)
        self.by = by


def some(names: Iterable[Any], most: int = 6) -> str:
    """Return the first `most` names and the number of the others."""
    names = [str(name) for name in names]
    more = f', … {len(names) - most} more' if len(names) > most else ''
    return (', '.join(names[:most]) or 'none') + more
