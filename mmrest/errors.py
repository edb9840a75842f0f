"""User-facing errors, and one-line explanations of errors of libraries."""

import argparse
import contextlib
import difflib
import re
import traceback
from typing import Any, Iterable, Iterator, List

REMEDIES = {
    'need at least one array to concatenate': 'no images remain in its dataset: check '
    'metainfo.classes, filter_cfg, data_prefix, the suffixes, and that ann_file lists images with '
    'objects',
    'Found 0 files in subfolders': 'put the images of each class into a folder, or set ann_file',
    'number of specified classes': 'set dataset.type=CustomDataset for classes of folders',
    "not '?list": 'if ann_file is a list, use a ConcatDataset of datasets with one file each',
    'No space left on device': 'free some space',
    "codec can't decode|utf-8-sig": 'save the file as plain UTF-8, and set PYTHONUTF8=1 in the '
    'environment if the locale is another',
    'byte 0x8b in position 1:': 'decompress it with gunzip',
    'is not in the .+ registry': 'correct its spelling, or import its module (custom_imports)',
    'unexpected keyword argument': 'correct it, or set _delete_=True if it is inherited',
    r'to have \d+ channels, but got': 'set in_channels of the neck or heads to the channels of '
    'the backbone, and in_channels of the backbone to those of the images',
    'mix_results': 'it mixes images: move it into the pipeline of a MultiImageMixDataset',
    'Target -?\\d+ is out of bounds': 'set the value of void pixels as ignore_index of the heads '
    'and of their losses',
    'reduce_zero_label': 'set it to the same value in the dataset and in LoadAnnotations',
    'shape of the mask': 'if the pipeline resizes label maps, put LoadAnnotations after the step '
    'that resizes',
    'not a subset of classes': 'for classes of your own, set dataset.type=BaseSegDataset',
    'base_wd should not be None': 'set weight_decay of the optimizer, or remove its multipliers',
    'CUDA out of memory': 'use --amp, --cfg-options model.backbone.with_cp=True, or a smaller '
    'train_dataloader.batch_size',
    'gloo.*Connection (closed|reset) by peer': 'another process ended first; see its error',
    'a specific rule must be': 'set default_hooks.checkpoint.rule=greater, or less',
    'Please install': 'install it, or use another backend',
    'out of bounds for uint8': 'set hue=0 in ColorJitter, or install numpy<2',
    "module 'numpy' has no attribute": 'install an older numpy',
    'inhomogeneous shape': 'proposal_fast of mmdet fails with numpy>=1.24; set metric=proposal',
    "'ConfigDict' object has no attribute": 'add it to the config of that part',
}
"""Regular expression of an error -> fix that its text does not suggest."""


class UsageError(argparse.ArgumentTypeError):
    """User-facing error, also of argument types, with a one-line message: cause and fix."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or does not match; the message is for the user."""


class Interrupted(SystemExit):
    """A preempted run that has saved its state; any script exits with 75 (EX_TEMPFAIL)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = 75


def some(names: Iterable[Any], most: int = 6) -> str:
    """Return the first `most` names and the number of the others."""
    names = [str(name) for name in names]
    more = f', … {len(names) - most} more' if len(names) > most else ''
    return (', '.join(names[:most]) or 'none') + more


def counted(number: int, noun: str, ending: str = 's') -> str:
    """Return a number and a noun, which gets its plural `ending` unless the number is 1."""
    return f'{number:,} {noun}{ending if number != 1 else ""}'


def near(name: str, names: Iterable[str], cutoff: float = 0.6) -> List[str]:
    """Return the most similar name as a list, or an empty list if none is similar enough."""
    return difflib.get_close_matches(name, sorted(names), 1, cutoff)


def suggestion(name: str, names: Iterable[str], otherwise: str) -> str:
    """Return a question about the most similar name, or another fix if there is none."""
    similar = near(name, names)
    return f'did you mean {similar[0]}?' if similar else otherwise


def first_line(error: Exception) -> str:
    """Return type and first line of an error, or the line of code if it has no message."""
    if not str(error).strip() and error.__traceback__ is not None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f'{type(error).__name__}: {frame.line} ({frame.name})'
    message = ' '.join(str(error).strip().split('\n')[0].split())
    return f'{type(error).__name__}: {message}'.rstrip(' :.')


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
        # mmengine appends the hooks that were called, or links to its documents.
        line = re.sub(r'( in <\S+ object at \w+>)+$', '', first_line(error))
        line = re.sub(r"""['"]([^"]*)\. Please check whether.*""", r'\1', line)
        path = re.search(r"""(?:No such file or directory|Not a directory): (['"])(.+?)\1""", line)
        if path:
            line = f'{path[2]} not found'
            remedy = 'check --data-root DIR, data_prefix, the suffixes and ann_file'
            if path[2].endswith('.py'):
                remedy = 'correct the path of that config, such as model.teacher_config'
            if r'\\' in line:  # as repr writes a backslash
                remedy = 'write / for \\ in the paths of ann_file, without a drive'
        for pattern, known in REMEDIES.items():
            if re.search(pattern, line):
                remedy = known
        raise UsageError(f'{fault}: {line}' + (f'; {remedy}' if remedy else '')) from error
