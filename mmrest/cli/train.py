"""Train a detector, segmentor or classifier from an mmrest or OpenMMLab config."""

import argparse
import contextlib
import logging
from pathlib import Path
from typing import Iterator, Optional

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import Runner
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ..checkpoint import lock_folder
from ..engine.building import set_up
from ..engine.checkpoint_hooks import newest_checkpoint
from ..engine.config import accumulation, total_batch_size
from ..engine.distributed import join_processes, of_first_process
from ..engine.resuming import ScheduleHook
from ..engine.weight_hooks import InitWeightsHook, StrictWeightsHook
from ..errors import UsageError, counted, explained
from ..preflight import Report, rehearse
from ..preflight.step import place_of
from .command import Parser, add_run_arguments, run_config


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add('config', help='config file, or name of a shipped config')
    add('--amp', action='store_true', help='enable automatic mixed precision (GPU only)')
    add(
        '--amp-dtype', choices=['float16', 'bfloat16'],
        help="dtype of --amp (default: the config's, or float16)",
    )  # fmt: skip
    add('--pretrained', metavar='PATH', help='path to pretrained backbone weights')
    add(
        '--auto-scale-lr', action='store_true',
        help='scale the learning rate with the total batch size',
    )  # fmt: skip
    add(
        '--resume', nargs='?', const='auto', metavar='CKPT',
        help='resume from CKPT (default: latest checkpoint in the work dir)',
    )  # fmt: skip
    add(
        '--dry-run', action='store_true',
        help='run all checks, one training step and one evaluation, print a summary, and exit '
        'without writing files',
    )  # fmt: skip
    add_run_arguments(parser)
    args = parser.parse_args()
    if args.amp_dtype is not None and not args.amp:
        parser.error(f'--amp-dtype {args.amp_dtype} needs --amp')
    return args


def use_amp(cfg: Config, dtype: Optional[str]) -> None:
    if get_device() == 'cpu':
        raise UsageError('--amp requires a GPU, but none is available')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'
    cfg.optim_wrapper.dtype = dtype or cfg.optim_wrapper.get('dtype') or 'float16'


def use_pretrained(cfg: Config, path: str) -> None:
    """Initialise the backbone from `path` instead of the weights in the config.

    A prefix and other fields of an ``init_cfg`` that loads weights are kept.
    """
    if not isinstance(cfg.model.get('backbone'), dict):
        raise UsageError(
            '--pretrained needs a model with a backbone, but this config has none; set init_cfg '
            'of the backbones inside its parts'
        )
    before = cfg.model.backbone.get('init_cfg') or {}
    if not isinstance(before, dict) or before.get('type', 'Pretrained') != 'Pretrained':
        before = {}
    cfg.model.backbone.init_cfg = dict(before, type='Pretrained', checkpoint=path)
    if cfg.model.get('pretrained') is not None:
        cfg.model.pretrained = None  # older mmseg bases set ResNet's weights there


def use_auto_scale_lr(cfg: Config) -> None:
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UsageError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config; set it with '
            '--cfg-options'
        )
    cfg.auto_scale_lr.enable = True
    if accumulation(cfg) > 1:  # mmengine counts the images of one iteration
        cfg.auto_scale_lr.base_batch_size /= accumulation(cfg)


def batch_size_warning(cfg: Config) -> Optional[str]:
    """Return a warning if the learning rate is tuned for another batch size."""
    scaling = cfg.get('auto_scale_lr') or {}
    total, factors = total_batch_size(cfg, get_world_size())
    meant = scaling.get('base_batch_size')
    if not meant or not total or scaling.get('enable') or total == meant:
        return None
    return (
        f'total batch size is {total} ({factors}), but the learning rate is tuned for {meant}; '
        'use --auto-scale-lr'
    )


def summary(config: str, report: Report) -> Table:
    """Return the findings of a dry run as a table."""
    suffix = f', with {counted(len(report.warnings), "warning")}' if report.warnings else ''
    title = f'{config} passed all checks{suffix}'
    rows = Table('checked', Column('found', overflow='fold'), title=title, title_justify='left')
    for fact in report.facts:
        rows.add_row(escape(fact.what), escape(fact.found))
    for warning in report.warnings:
        rows.add_row('[bold yellow]warning', escape(warning))
    return rows


@contextlib.contextmanager
def explained_start(runner: Runner) -> Iterator[None]:
    """Convert an error of the network in the first step into one line.

    The traceback is in the log; without a log, as in other processes than the first, the error is
    raised as it is.
    """
    try:
        yield
    except Exception as error:
        place = place_of(error)
        has_log = any(handler.level <= logging.INFO for handler in runner.logger.handlers)
        if runner.iter or not place or not has_log:
            raise
        fault = f'the first step of training fails{place} (traceback in {runner.log_dir})'
        with explained(fault, 'check that network and data match'):
            runner.logger.info(fault, exc_info=True)
            raise


def main() -> None:
    args = parse_args()
    cfg = run_config(args)
    join_processes(cfg)
    if args.amp:
        use_amp(cfg, args.amp_dtype)
    if args.pretrained is not None:
        use_pretrained(cfg, args.pretrained)
    if args.auto_scale_lr:
        use_auto_scale_lr(cfg)
    if args.resume is not None:
        cfg.resume = True
    resuming = bool(cfg.get('resume'))
    if args.resume not in (None, 'auto'):
        cfg.load_from = args.resume
    elif args.resume == 'auto' or (resuming and not cfg.get('load_from')):
        hook = (cfg.get('default_hooks') or {}).get('checkpoint')
        newest = of_first_process(newest_checkpoint, cfg.work_dir, hook)
        cfg.resume = newest is not None
        # With nothing to resume, the run starts as it would without --resume.
        cfg.load_from = newest or cfg.get('load_from')
    skipped = args.skip_preflight and not args.dry_run
    report = Report() if skipped else rehearse(cfg, ('train', 'val'), thorough=args.dry_run)
    report.warnings += filter(None, [batch_size_warning(cfg)])
    if resuming and not cfg.resume:
        report.warnings.append(f'no checkpoint found in {cfg.work_dir}; starting from scratch')
    if args.dry_run:
        if get_rank() == 0:
            Console().print(summary(args.config, report))
        return
    of_first_process(lock_folder, Path(cfg.work_dir))
    runner = set_up(cfg, ['train', 'val'], report.datasets, args.verbose)
    for warning in report.warnings:
        runner.logger.warning(warning)
    if cfg.get('resume'):
        runner.register_hook(StrictWeightsHook(resuming=True))
        runner.register_hook(ScheduleHook())
    else:
        runner.register_hook(InitWeightsHook())
    with explained_start(runner):
        runner.train()
