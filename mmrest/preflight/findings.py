"""Report of a rehearsal."""

import contextlib
import io
import logging
import warnings
from typing import Iterator, List, NamedTuple, Optional

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


class _Collector(logging.Handler):
    """Handler that collects the messages of warnings."""

    def __init__(self, found: List[str]) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append(record.getMessage())


@contextlib.contextmanager
def quiet(found: Optional[List[str]] = None) -> Iterator[None]:
    """Silence mmengine's log and the output of metrics, and collect the warnings of the log."""
    logger = MMLogger.get_current_instance()
    before = logger.handlers[:]
    logger.handlers[:] = [] if found is None else [_Collector(found)]
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.handlers[:] = before
