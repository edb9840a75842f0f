"""What the programs in tools/ share: arguments, the runner they drive, errors in one line."""

import argparse
import errno
import os
import os.path as osp
import sys
import warnings
from pathlib import Path
from typing import Callable, NoReturn, Optional, Sequence

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..checkpoint import CheckpointError
from .config import load_config, make_resumable, without_sync_bn
from .display import DisplayHook
from .errors import Interrupted, UsageError
from .guard import guard_checkpoints
from .processes import check_launcher, is_first_to_say, leave_processes, use_cpu_wrapper
from .saving import save_whole
from .sharding import check_sharding
from .stopping import STOPPED, have_workers_wait

# mmengine still looks packages up through it; nobody at the command line can mend that.
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line, too."""

    def error(self, message: str) -> NoReturn:
        """End the program with exit status 2."""
        self.exit(2, f'{self.prog}: error: {message}; --help lists the options\n')


def folder(text: str) -> Path:
    """Type of an argument that names a folder to write to, which need not exist yet."""
    path = Path(text).expanduser()
    nearest = next(part for part in (path, *path.parents) if part.exists())
    if not nearest.is_dir():
        raise argparse.ArgumentTypeError(f'{nearest} is not a folder; choose another')
    return path


def published_file(text: str) -> Path:
    """Type of an argument that names a file of weights to write."""
    path = Path(text).expanduser()
    if path.suffix not in ('.pth', '.safetensors'):
        raise argparse.ArgumentTypeError(f'{text} is neither a .pth nor a .safetensors file')
    folder(str(path.parent))
    return path


def at_least(least: int) -> Callable[[str], int]:
    """Type of an argument that is an integer with a lower bound."""

    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least:
            raise argparse.ArgumentTypeError(f'{text!r} is not an integer of at least {least}')
        return value

    return integer


class _Options(DictAction):
    """KEY=VALUE pairs; mmengine's action ends in a traceback where the = is missing."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: Optional[str] = None,
    ) -> None:
        for value in values:
            if not value.partition('=')[1] or value.startswith('='):
                raise argparse.ArgumentError(self, f'{value!r} is not of the form KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that change a config, under mmdet's names; see :func:`load_config`."""
    parser.add_argument(
        '--data-root', metavar='DIR', help='folder that replaces the data_root of the config'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        metavar='KEY=VALUE',
        help='values that replace those of the config, for instance '
        'train_dataloader.batch_size=1; lists as key="[a,b]"',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that training and testing have in common, under mmdet's names."""
    parser.add_argument(
        '--work-dir',
        type=folder,
        help='folder for logs and checkpoints (default: work_dirs/ + config name)',
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run',
    )
    # torch.distributed.launch passes it, torchrun sets LOCAL_RANK instead.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


def run_config(args: argparse.Namespace) -> Config:
    """Config of the run that `args` (see :func:`add_run_arguments`) ask for.

    Raises:
        UsageError: see :func:`mmrest.engine.config.load_config`.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    check_launcher(args.launcher)
    cfg = load_config(args.config, args.cfg_options, args.data_root)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = str(args.work_dir)
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('work_dirs', name)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """mmengine's Runner, or the config's own, fitted to this machine.

    SyncBN needs CUDA and a process group; without either it becomes BN.
    """
    guard_checkpoints()
    save_whole()
    have_workers_wait()
    make_resumable(cfg)
    check_sharding(cfg)
    reverted = 0
    if not torch.cuda.is_available() or cfg.launcher == 'none':
        reverted = without_sync_bn(cfg)
    if cfg.launcher != 'none' and get_device() == 'cpu':
        use_cpu_wrapper(cfg)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    runner.register_hook(DisplayHook())
    if reverted:
        lacking = 'a process group' if torch.cuda.is_available() else 'CUDA'
        print_log(
            f'SyncBN became BN at {reverted} place(s) of the config: it needs {lacking}', 'current'
        )
    return runner


def run(main: Callable[[], None]) -> None:
    """Run a program; what its user can mend ends it with one line and exit status 1.

    A run that was asked to stop ends with :data:`~.stopping.STOPPED`. Of many processes that have
    the same to say one says it.
    """
    try:
        main()
    except (UsageError, CheckpointError) as error:
        _fail(_own_line(error))
    except Interrupted as stop:
        if is_first_to_say(str(stop)):
            print(f'{osp.basename(sys.argv[0])}: {stop}', file=sys.stderr, flush=True)
        leave_processes()
        sys.exit(STOPPED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f' at {error.filename}' if error.filename else ''
        _fail(
            f'the disk is full{where}; checkpoints that were there before are kept: make room, '
            'and go on with --resume'
        )
    leave_processes()


def _own_line(error: Exception) -> str:
    """The message of an error; torch wraps that of a loader's worker in a traceback."""
    message = str(error)
    if 'Original Traceback' not in message:
        return message
    return message.rpartition(f'{type(error).__name__}: ')[2].strip()


def _fail(message: str) -> NoReturn:
    line = f'{osp.basename(sys.argv[0])}: error: {message}'
    sys.exit(line if is_first_to_say(line) else 1)
