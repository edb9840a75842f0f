"""Shared by the commands: argument types, options of a run, one-line errors."""

import argparse
import ast
import contextlib
import errno
import math
import os
import os.path as osp
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NoReturn, Optional, Sequence, Tuple

from mmengine.config import Config

from ..analysis.networks import BACKBONES
from ..checkpoint import CheckpointError, check_writable
from ..engine import distributed
from ..engine.config import load_config
from ..engine.signals import isolate_children
from ..errors import Interrupted, UsageError
from ..ops import forced_backend

# What libraries say of themselves and their defaults; users of a command cannot fix that.
for _message in (
    'pkg_resources is deprecated', '``build_loss`` would be', 'Default ``avg_non_ignore``',
    'The draw is False', '`reduce_zero_label` will be',
):  # fmt: skip
    warnings.filterwarnings('ignore', message=_message)


PATH_ERRORS = (
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM,
    errno.EROFS,
)  # fmt: skip
"""Errors of writing to a path, or of reading without permission."""


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        name = osp.basename(sys.argv[0])
        self.exit(2, f'{name}: error: {message}; --help lists the options\n')


def folder(text: str) -> Path:
    """Return the path of an output directory, which need not exist yet."""
    check_writable(text, 'folder')
    return Path(osp.expanduser(text))


def written_file(*suffixes: str) -> Callable[[str], Path]:
    """Return the argument type of an output file with one of the suffixes."""

    def file(text: str) -> Path:
        path = Path(osp.expanduser(text))
        if path.suffix not in suffixes:
            raise UsageError(f'{text} is not a {" or ".join(suffixes)} file')
        if path.is_dir():
            raise UsageError(f'{text} is a folder; pass a file')
        folder(str(path.parent))
        return path

    return file


def _number(kind: Callable[[str], Any], least: float, most: float, words: str) -> Callable:
    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise UsageError(f'{text!r} is not {words}')
        return value

    return number


def at_least(least: int) -> Callable[[str], int]:
    """Return the argument type of an integer with a lower bound."""
    return _number(int, least, sys.maxsize, f'an integer of at least {least}')


not_negative = _number(float, 0, sys.float_info.max, 'a number of at least 0')
fraction = _number(float, 0, 1, 'a number from 0 to 1')


class _Options(argparse.Action):
    """Action that merges the pairs of repeated options into one dict."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **dict(values)})


def _pair(argument: str) -> Tuple[str, Any]:
    """Parse KEY=VALUE, with values in Python syntax; quotes in lists are optional.

    mmengine's DictAction removes white space from values, reads dicts as strings, and raises a
    traceback if the = is missing.
    """
    key, equals, text = argument.partition('=')
    if not key or not equals:
        raise UsageError(f'{argument!r} is not of the form KEY=VALUE')
    text = text.strip()
    parse = ast.literal_eval if '{' in text and text[0] in '{[(' else _value
    try:
        return key, parse(text)
    except (ValueError, SyntaxError, TypeError):
        fault = f'{text} is not a dict or list of dicts in Python syntax'
        raise UsageError(f'{key}: {fault}') from None


def _value(text: str) -> Any:
    """Parse a value; a path keeps its white space and its commas."""
    with contextlib.suppress(ValueError, SyntaxError):
        value = ast.literal_eval(text)
        if isinstance(value, tuple) and len([*_split(text)]) > 1:
            return list(value)  # as mmengine does without brackets around the commas
        # A quoted list, as in mmengine's help, keeps its quotes if no shell removes them.
        listed = isinstance(value, str) and value[:1] + value[-1:] in ('[]', '()')
        return _value(value) if listed else value
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    if text[:1] + text[-1:] in ('[]', '()'):
        parts = [_value(part.strip()) for part in _split(text[1:-1]) if part.strip()]
        return parts if text[0] == '[' else tuple(parts)
    if ',' in text and not set(text) & set(' /\\[]()'):
        return [_value(part) for part in text.split(',')]
    return text


def _split(text: str) -> Iterator[str]:
    """Split at the commas outside brackets."""
    depth = begin = 0
    for place, letter in enumerate(text):
        depth += (letter in '[(') - (letter in '])')
        if letter == ',' and not depth:
            yield text[begin:place]
            begin = place + 1
    yield text[begin:]


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ['---'] * len(columns), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that change a config, under mmdet's names."""
    parser.add_argument('--data-root', metavar='DIR', help="override the config's data_root")
    add_cfg_options(parser, 'train_dataloader.batch_size=1')


def add_cfg_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Add the argument that overrides values of a config, under mmdet's name."""
    parser.add_argument(
        '--cfg-options', nargs='+', type=_pair, action=_Options, metavar='KEY=VALUE',
        help=f'override values of the config, for instance {example}; lists as key="[a,b]"',
    )  # fmt: skip


class _Size(argparse.Action):
    """Action for height and width of an image, or one number for both, in pixels."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if len(values) > 2:
            reason = f'takes a height and a width, not {len(values)} numbers'
            raise argparse.ArgumentError(self, reason)
        setattr(namespace, self.dest, (values[0], values[-1]))


def add_network(parser: argparse.ArgumentParser, default: str, size: str = '--shape') -> None:
    """Add the arguments of a network and of the height and width of its images."""
    add = parser.add_argument
    add('network', metavar='CONFIG', help=f'config, or one of {", ".join(BACKBONES)}')
    add(
        size, nargs='+', type=at_least(1), action=_Size, metavar='PIXELS',
        help=f'height and width of the image, one number for a square (default: {default})',
    )  # fmt: skip


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of training and testing, under mmdet's names."""
    add = parser.add_argument
    add('--work-dir', type=folder, help='output directory (default: work_dirs/<config name>)')
    add_config_arguments(parser)
    launchers = ['none', *distributed.LAUNCHERS]
    add('--launcher', choices=launchers, default='none', help='job launcher')
    add('--skip-preflight', action='store_true', help='skip the checks before the run')
    add('--verbose', action='store_true', help='show the full log in the terminal')
    # torch.distributed.launch passes it, torchrun sets LOCAL_RANK instead.
    add('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def run_config(args: argparse.Namespace) -> Config:
    """Return the config of a run from the arguments of :func:`add_run_arguments`.

    Raises:
        UsageError: see :func:`.load_config` and :func:`.check_launcher`; or ``MMREST_BACKEND`` is
            not a valid backend.
    """
    rank = str(args.local_rank)
    if args.launcher == 'mpi':
        rank = os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', rank)
    os.environ.setdefault('LOCAL_RANK', rank)
    distributed.check_launcher(args.launcher)
    try:
        forced_backend()
    except ValueError as error:
        raise UsageError(str(error)) from error
    cfg = load_config(args.config, args.cfg_options, args.data_root)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = str(args.work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', Path(cfg.filename).stem)
    return cfg


def run(main: Callable[[], Optional[int]]) -> None:
    """Run a command; a user error is printed on one line, with exit status 1.

    A run that SIGTERM stopped exits as :class:`~mmrest.errors.Interrupted`. After Ctrl-C, the
    process ends by the signal, so that shells end their loops, but without a traceback.
    """
    isolate_children()
    try:
        status = main()
    except Interrupted as stop:
        _say(str(stop))
        distributed.leave_processes()
        raise
    except (Exception, KeyboardInterrupt) as error:
        if _is_interrupt(error):
            message = str(error) if isinstance(error, KeyboardInterrupt) else ''
            _say(message or 'interrupted')
            raise KeyboardInterrupt from None
        line = _own_line(error)
        if line is None:
            raise
        sys.exit(f'{osp.basename(sys.argv[0])}: error: {distributed.rank_prefix()}{line}')
    distributed.leave_processes()
    if status:
        sys.exit(status)


def _is_interrupt(error: Optional[BaseException]) -> bool:
    """Return True if Ctrl-C caused an error, through a bare ``except`` of a library."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _say(message: str) -> None:
    line = f'{osp.basename(sys.argv[0])}: {distributed.rank_prefix()}{message}'
    print(line, file=sys.stderr, flush=True)


def _own_line(error: BaseException) -> Optional[str]:
    """Return the line that an error of the user is reported with, or None for other errors."""
    if isinstance(error, (UsageError, CheckpointError)):
        # In workers, torch adds a traceback.
        whole, _, last = str(error).rpartition(f'{type(error).__name__}: ')
        return last.strip() if 'Original Traceback' in whole else str(error)
    if isinstance(error, ImportError) and str(error).startswith('Failed to import'):
        return f'{error}; install it, or correct the config'  # of a Python-style config
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f' at {error.filename}' if error.filename else ''
        training = osp.basename(sys.argv[0]).endswith(('train', 'train.py'))
        then = ', then continue with --resume; earlier checkpoints are kept'
        return f'the disk is full{where}; free some space{then if training else ""}'
    if error.errno in PATH_ERRORS and error.filename:
        return f'{error.filename}: {error.strerror}; choose another path, or fix this one'
    return None
