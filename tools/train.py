"""Train a detector or segmentor from a config of mmrest, mmdet or mmseg."""

import argparse
import logging

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from mmrest.engine.checks import check
from mmrest.engine.command import Parser, add_run_arguments, build_runner, run, run_config
from mmrest.engine.errors import UsageError
from mmrest.engine.guard import WholeCheckpointHook


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--amp', action='store_true', help='automatic mixed precision, on an accelerator'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the total batch size over that of the recipe',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='go on from CKPT, or from the latest checkpoint of the work dir',
    )
    add_run_arguments(parser)
    return parser.parse_args()


def use_amp(cfg: Config) -> None:
    """Switch automatic mixed precision on."""
    if get_device() == 'cpu':
        raise UsageError('--amp needs an accelerator and torch finds none; leave it out')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'


def use_auto_scale_lr(cfg: Config) -> None:
    """Switch the scaling of the learning rate on."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UsageError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config; set it with '
            '--cfg-options'
        )
    cfg.auto_scale_lr.enable = True


def main() -> None:
    """Train."""
    args = parse_args()
    cfg = run_config(args)
    if args.amp:
        use_amp(cfg)
    if args.auto_scale_lr:
        use_auto_scale_lr(cfg)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    check(cfg, ('train', 'val'))
    runner = build_runner(cfg)
    if cfg.get('resume'):
        runner.register_hook(WholeCheckpointHook(resuming=True))
    if args.resume == 'auto' and find_latest_checkpoint(cfg.work_dir) is None:
        message = f'nothing to resume in {cfg.work_dir}: training begins from the beginning'
        print_log(message, 'current', logging.WARNING)
    runner.train()


if __name__ == '__main__':
    run(main)
