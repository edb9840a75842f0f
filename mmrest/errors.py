"""Errors for the user of a command, and lists of names in their messages."""

from typing import Any, Iterable


class UsageError(Exception):
    """User-facing error with a one-line message: cause and fix."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or does not match; the message is for the user."""


class Interrupted(BaseException):
    """A preempted run that has saved its state; no error handler should catch it."""


def some(names: Iterable[Any], most: int = 6) -> str:
    """Return the first `most` names and the number of the others."""
    names = [str(name) for name in names]
    more = f', … {len(names) - most} more' if len(names) > most else ''
    return (', '.join(names[:most]) or 'none') + more
