"""What the pre-flight tells the person who starts a run."""

import contextlib
import io
import logging
import warnings
from typing import Any, Iterator, List, NamedTuple, Sequence

from mmengine.logging import MMLogger

MIB = 2**20
GIB = 2**30


class Fact(NamedTuple):
    """A line of the summary of a dry run."""

    what: str
    found: str


class Report:
    """Facts, and warnings of what may well be meant but seldom is.

    Attributes:
        facts: in the order in which they were found.
        warnings: each a sentence that says what to do.
    """

    def __init__(self) -> None:
        self.facts: List[Fact] = []
        self.warnings: List[str] = []

    def add(self, what: str, found: str) -> None:
        """Add a fact."""
        self.facts.append(Fact(what, found))

    def warn(self, message: str) -> None:
        """Add a warning, once."""
        if message not in self.warnings:
            self.warnings.append(message)


def size(count: float) -> str:
    """A number of bytes for people."""
    return f'{count / GIB:.1f} GiB' if count >= GIB else f'{count / MIB:.0f} MiB'


def some(names: Sequence[Any], most: int = 8) -> str:
    """Names for a message, the first few of many."""
    shown = ', '.join(map(str, names[:most]))
    return f'{shown}, ... ({len(names)} in all)' if len(names) > most else shown


def spread(count: int, most: int) -> List[int]:
    """At most so many of `count` indices, at equal distances, the first one among them."""
    chosen = min(most, count)
    return [index * count // chosen for index in range(chosen)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what mmengine logs of every parameter, and what metrics print."""
    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(before)
