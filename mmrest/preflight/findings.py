"""Report of a rehearsal."""

import contextlib
import io
import logging
import sys
import warnings
from logging.handlers import BufferingHandler
from typing import Any, Dict, Iterator, List, NamedTuple

from mmengine.logging import MMLogger
from mmengine.logging.logger import FilterDuplicateWarning


class Fact(NamedTuple):
    """Line of the summary of a dry run."""

    what: str
    found: str


class Report:
    """Facts, and warnings about likely mistakes, in the order in which they were found."""

    def __init__(self) -> None:
        self.facts: List[Fact] = []
        self.warnings: List[str] = []
        self.datasets: Dict[str, Any] = {}  # that were built, by phase

    def add(self, what: str, found: str) -> None:
        """Add a fact."""
        self.facts.append(Fact(what, found))


@contextlib.contextmanager
def quiet() -> Iterator[List[logging.LogRecord]]:
    """Silence mmengine's log and the output of metrics; yield the list of logged warnings."""
    logger = MMLogger.get_current_instance()
    before, collector = logger.handlers[:], BufferingHandler(sys.maxsize)
    collector.setLevel(logging.WARNING)
    collector.addFilter(FilterDuplicateWarning())
    logger.handlers[:] = [collector]
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield collector.buffer
    finally:
        logger.handlers[:] = before
