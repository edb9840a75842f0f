"""What the checks of a run tell one another and the person who asked."""

from typing import List, NamedTuple

MIB = 2**20
GIB = 2**30


class Fact(NamedTuple):
    """A line of the summary of a dry run."""

    what: str
    found: str


Facts = List[Fact]


def size(count: float) -> str:
    """A number of bytes for people."""
    return f'{count / GIB:.1f} GiB' if count >= GIB else f'{count / MIB:.0f} MiB'
