"""Errors that are meant for the person at the command line."""


class UsageError(Exception):
    """What was asked for cannot be done; one line names the culprit and what to do."""
