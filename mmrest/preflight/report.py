"""What a rehearsal reports, and the one place where an error of a library becomes a line."""

import contextlib
import io
import logging
import re
import warnings
from typing import Any, Iterator, List, NamedTuple, Sequence

from mmengine.logging import MMLogger

from ..checkpoint import CheckpointError
from ..engine.config import first_line
from ..engine.errors import UsageError

REMEDIES = {
    'need at least one array to concatenate': 'its data set is left without images: check '
    'metainfo.classes, filter_cfg, data_prefix and the suffixes',
    'number of specified classes': 'set dataset.type=CustomDataset for classes of folders',
    "not '?list": 'if ann_file is a list, use a ConcatDataset of data sets with one file each',
    "codec can't decode": 'set PYTHONUTF8=1 in the environment if the locale is not UTF-8',
    'unexpected keyword argument': 'remove or correct it',
    'mix_results': 'it mixes images: move it into the pipeline of a MultiImageMixDataset',
}
"""Fixes of errors whose texts do not suggest them, by regular expression."""


class Fact(NamedTuple):
    """A line of the summary of a dry run."""

    what: str
    found: str


class Report:
    """Facts, and warnings of what is rarely intended.

    Attributes:
        facts: in the order in which they were found.
        warnings: each a sentence with its fix.
    """

    def __init__(self) -> None:
        self.facts: List[Fact] = []
        self.warnings: List[str] = []

    def add(self, what: str, found: str) -> None:
        """Add a fact."""
        self.facts.append(Fact(what, found))


@contextlib.contextmanager
def explained(fault: str, remedy: str = '') -> Iterator[None]:
    """Turn whatever a part of a run raises into one line.

    Args:
        fault: beginning of the line, such as ``'val_evaluator cannot be built'``.
        remedy: fix for errors that :data:`REMEDIES` does not know.

    Raises:
        UsageError: anything was raised, except for an error that is one line already.
    """
    try:
        yield
    except (UsageError, CheckpointError):
        raise
    except Exception as error:  # data sets, transforms, metrics and networks raise anything
        line = first_line(error)
        path = re.search(r"(?:No such file or directory|Not a directory): '(.+?)'", line)
        if path:
            line = f'{path.group(1)} not found'
            remedy = 'pass --data-root DIR, or set data_root, data_prefix and the suffixes'
        for pattern, known in REMEDIES.items():
            if re.search(pattern, line):
                remedy = known
        raise UsageError(f'{fault}: {line}' + (f'; {remedy}' if remedy else '')) from error


def some(names: Sequence[Any], most: int = 8) -> str:
    """Return names for a message, only the first few of many."""
    shown = ', '.join(map(str, names[:most]))
    return f'{shown}, ... ({len(names)} in all)' if len(names) > most else shown


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what mmengine logs of every parameter, and what metrics print."""
    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(before)
