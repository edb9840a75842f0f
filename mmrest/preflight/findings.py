"""Report of a rehearsal."""

import contextlib
import io
import logging
import warnings
from typing import Iterator, List, NamedTuple

from mmengine.logging import MMLogger


class Fact(NamedTuple):
    """Line of the summary of a dry run."""

    what: str
    found: str


class Report:
    """Facts, and warnings about likely mistakes, in the order in which they were found."""

    def __init__(self) -> None:
        self.facts: List[Fact] = []
        self.warnings: List[str] = []

    def add(self, what: str, found: str) -> None:
        """Add a fact."""
        self.facts.append(Fact(what, found))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence mmengine's log of parameters, and the output of metrics."""
    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(before)
