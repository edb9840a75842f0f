"""Test a detector, segmentor or classifier: metrics, on request predictions and pictures."""

import argparse
import os
import os.path as osp
import sys

from mmengine.config import Config

from ..engine.building import build_runner
from ..engine.config import TESTED, is_classifier
from ..engine.display import quiet_libraries
from ..engine.errors import UsageError
from ..engine.processes import join_processes
from ..engine.tta import check_tta, use_tta
from ..engine.weights import StrictWeightsHook
from ..preflight import rehearse
from .command import Parser, add_run_arguments, run_config


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        help='where the predictions are kept: a .pkl file for a detector or classifier, a folder '
        'of PNG label maps for a segmentor',
    )
    parser.add_argument('--show', action='store_true', help='show predictions on the screen')
    parser.add_argument('--show-dir', metavar='DIR', help='folder for pictures of predictions')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation: flip for boxes, scales and flip for label maps',
    )
    parser.add_argument(
        '--wait-time', type=float, help='seconds that --show stays at a picture (default: 2)'
    )
    add_run_arguments(parser)
    args = parser.parse_args()
    if args.wait_time is not None and not args.show:
        parser.error('--wait-time is for --show, which is not given')
    return args


def is_segmentor(cfg: Config) -> bool:
    """Whether the config is one of mmseg, rather than of mmdet."""
    return cfg.get('default_scope') == 'mmseg'


def keep_predictions(cfg: Config, path: str) -> None:
    """Have the predictions written to `path`."""
    evaluators = cfg.get('test_evaluator') or []
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    if is_segmentor(cfg):
        for evaluator in evaluators:
            # Some metrics of mmseg delete the folder in the end unless they are told to keep it.
            evaluator.update(output_dir=path, keep_results=True)
    elif path.endswith(('.pkl', '.pickle')):
        kind = 'DumpResults' if is_classifier(cfg) else 'DumpDetResults'
        cfg.test_evaluator = [*evaluators, dict(type=kind, out_file_path=path)]
    else:
        raise UsageError(
            f'--out {path}: the predictions of a detector or classifier go to a .pkl file'
        )


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Have the predictions drawn, on the screen or to a folder."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UsageError('--show and --show-dir need default_hooks.visualization in the config')
    if args.show and sys.platform == 'linux' and not os.environ.get('DISPLAY'):
        raise UsageError(
            '--show needs a screen and DISPLAY names none; --show-dir DIR draws files'
        )
    hook[switch_of_pictures(cfg)] = True
    if args.show:
        hook.show = True
        hook.wait_time = 2 if args.wait_time is None else args.wait_time
    if args.show_dir is not None and is_segmentor(cfg):
        hook.interval = 1  # mmseg draws every 50th picture
        cfg.setdefault('visualizer', dict(type='SegLocalVisualizer')).save_dir = args.show_dir
    elif args.show_dir is not None and is_classifier(cfg):
        hook.update(interval=1, out_dir=args.show_dir)  # mmpretrain draws every 5000th picture
    elif args.show_dir is not None:
        # An absolute path, because mmdet puts a relative one below the work dir.
        hook.test_out_dir = osp.abspath(args.show_dir)


def switch_of_pictures(cfg: Config) -> str:
    """What the hook that draws predictions calls the switch for it."""
    return 'enable' if is_classifier(cfg) else 'draw'


def main() -> None:
    """Test."""
    args = parse_args()
    cfg = run_config(args)
    join_processes(cfg)
    cfg.load_from = args.checkpoint
    if args.out is not None:
        keep_predictions(cfg, args.out)
    if args.show or args.show_dir is not None:
        draw_predictions(cfg, args)
    elif 'visualization' in (cfg.get('default_hooks') or {}):
        # Configs draw samples of an evaluation in training; mmdet would draw every test image.
        cfg.default_hooks.visualization[switch_of_pictures(cfg)] = False
    if args.tta:
        check_tta(cfg)
    rehearsal = None if args.skip_preflight else rehearse(cfg, ('test',))
    if args.tta:
        use_tta(cfg)
    # The work dir keeps the config that was trained, which names other weights to begin with.
    stem = osp.splitext(osp.basename(args.config))[0]
    runner = build_runner(
        Config(cfg.to_dict(), cfg.text, filename=f'{stem}{TESTED}'), args.verbose
    )
    if rehearsal is not None and not args.tta:  # which has a pipeline of its own
        rehearsal.hand_over(runner)
    runner.register_hook(StrictWeightsHook())
    with quiet_libraries(runner):
        runner.test()
