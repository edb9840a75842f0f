"""Errors for the user of a command."""


class UsageError(Exception):
    """User-facing error with a one-line message: cause and fix."""


class Interrupted(BaseException):
    """A preempted run that has saved its state; no error handler should catch it."""
