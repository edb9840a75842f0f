"""Error class, and lists of names in messages."""

from typing import Iterable


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or does not match; the message is for the user."""


def shortened(names: Iterable[str], most: int = 6) -> str:
    """Return the first `most` names and the number of the others."""
    names = [str(name) for name in names]
    more = f', … {len(names) - most} more' if len(names) > most else ''
    return (', '.join(names[:most]) or 'none') + more
