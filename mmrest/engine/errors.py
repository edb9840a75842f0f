"""Errors that are meant for the person at the command line."""


class UsageError(Exception):
    """What was asked for cannot be done; one line names the culprit and what to do."""


class Interrupted(BaseException):
    """The run was asked to stop and has saved what it had; no handler of errors is to catch it."""
