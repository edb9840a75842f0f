"""Report of a rehearsal, and conversion of library errors to one-line messages."""

import contextlib
import io
import logging
import re
import warnings
from typing import Iterator, List, NamedTuple

from mmengine.logging import MMLogger

from ..engine.config import first_line
from ..errors import CheckpointError, UsageError

REMEDIES = {
    'need at least one array to concatenate': 'no images remain in its dataset: check '
    'metainfo.classes, filter_cfg, data_prefix, the suffixes, and that ann_file lists images with '
    'objects',
    'number of specified classes': 'set dataset.type=CustomDataset for classes of folders',
    "not '?list": 'if ann_file is a list, use a ConcatDataset of datasets with one file each',
    "codec can't decode": 'set PYTHONUTF8=1 in the environment if the locale is not UTF-8',
    'unexpected keyword argument': 'remove or correct it',
    'mix_results': 'it mixes images: move it into the pipeline of a MultiImageMixDataset',
    'Target -?\\d+ is out of bounds': 'set the value of void pixels as ignore_index of the heads '
    'and of their losses',
    'reduce_zero_label': 'set it to the same value in the dataset and in LoadAnnotations',
    'shape of the mask': 'if the pipeline resizes label maps, put LoadAnnotations after the step '
    'that resizes',
    'not a subset of classes': 'for classes of your own, set dataset.type=BaseSegDataset',
    'base_wd should not be None': 'set weight_decay of the optimizer, or remove its multipliers',
    'Please install': 'install it, or use another backend',
    "'ConfigDict' object has no attribute": 'add it to the config of that part',
}
"""Regular expression of an error -> fix that its text does not suggest."""


class Fact(NamedTuple):
    """Line of the summary of a dry run."""

    what: str
    found: str


class Report:
    """Facts, and warnings about likely mistakes.

    Attributes:
        facts: in the order in which they were found.
        warnings: sentences with a fix.
    """

    def __init__(self) -> None:
        self.facts: List[Fact] = []
        self.warnings: List[str] = []

    def add(self, what: str, found: str) -> None:
        """Add a fact."""
        self.facts.append(Fact(what, found))


@contextlib.contextmanager
def explained(fault: str, remedy: str = '') -> Iterator[None]:
    """Convert any error of a part of a run into a one-line UsageError.

    Args:
        fault: beginning of the line, such as ``'val_evaluator cannot be built'``.
        remedy: fix for errors that are not in :data:`REMEDIES`.

    Raises:
        UsageError: an error was raised; UsageError and CheckpointError are passed on.
    """
    try:
        yield
    except (UsageError, CheckpointError):
        raise
    except Exception as error:  # datasets, transforms, metrics and networks raise anything
        # mmengine appends the hooks that were called.
        line = re.sub(r'( in <\S+ object at \w+>)+$', '', first_line(error))
        path = re.search(r"(?:No such file or directory|Not a directory): '(.+?)'", line)
        if path:
            line = f'{path.group(1)} not found'
            remedy = 'pass --data-root DIR, or set data_root, data_prefix and the suffixes'
        for pattern, known in REMEDIES.items():
            if re.search(pattern, line):
                remedy = known
        raise UsageError(f'{fault}: {line}' + (f'; {remedy}' if remedy else '')) from error


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
