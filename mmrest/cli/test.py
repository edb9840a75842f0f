"""Test a detector, segmentor or classifier: compute metrics; optionally save predictions."""

import argparse
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from mmengine.dist import get_rank

from ..engine.building import set_up
from ..engine.compat import renamed
from ..engine.config import TESTED, check_tta, is_classifier, is_segmentor, type_name, use_tta
from ..engine.distributed import join_processes
from ..engine.weight_hooks import StrictWeightsHook
from ..errors import UsageError
from ..inference.hook import PredictionsHook
from ..inference.outputs import Viewer
from ..preflight import Report, rehearse
from .command import Parser, add_run_arguments, folder, run_config, written_file


def predictions_hook(cfg: Config, args: argparse.Namespace) -> Optional[PredictionsHook]:
    """Return the hook that ``--show``, ``--show-dir`` and a segmentor's ``--out`` ask for.

    The predictions of detectors and classifiers are saved by an evaluator, added to `cfg`.
    """
    # PredictionsHook replaces mmdet's, mmseg's and mmpretrain's hooks, which draw every image.
    replaced = (cfg.get('default_hooks') or {}).pop('visualization', None) or {}
    label_maps = None
    if args.out is not None and is_segmentor(cfg):
        label_maps = folder(args.out)
    elif args.out is not None:
        path = str(written_file('.pkl', '.pickle')(args.out))
        kind = 'DumpResults' if is_classifier(cfg) else 'mmdet.DumpDetResults'
        evaluators = cfg.get('test_evaluator') or []
        evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
        if any(type_name(evaluator) == 'MultiDatasetsEvaluator' for evaluator in evaluators):
            raise UsageError('--out does not support MultiDatasetsEvaluator; test each dataset')
        cfg.test_evaluator = [*evaluators, dict(type=kind, out_file_path=path)]
    viewer = None
    if args.show or args.show_dir is not None:
        wait_time = 2 if args.wait_time is None else args.wait_time
        viewer = Viewer(args.show_dir, args.show, wait_time)
    if viewer or label_maps:
        return PredictionsHook(viewer, label_maps, replaced.get('score_thr', 0.3))
    return None


def main() -> None:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add('config', help='config file, or name of a shipped config')
    add('checkpoint', help='checkpoint file')
    add(
        '--out',
        help='save predictions to this .pkl file (detector, classifier) or folder of PNG label '
        'maps (segmentor)',
    )
    add('--show', action='store_true', help='show predictions in a window')
    add('--show-dir', type=folder, metavar='DIR', help='folder for visualizations of predictions')
    add(
        '--tta', action='store_true',
        help='test-time augmentation: flip for boxes, scales and flip for label maps',
    )  # fmt: skip
    add('--wait-time', type=float, help='seconds to display each image (default: 2)')
    add_run_arguments(parser)
    args = parser.parse_args()
    if args.wait_time is not None and not args.show:
        parser.error('--wait-time needs --show')
    cfg = run_config(args)
    join_processes(cfg)
    cfg.load_from = args.checkpoint
    hook = predictions_hook(cfg, args)
    if args.tta:
        check_tta(cfg)
    report = Report() if args.skip_preflight else rehearse(cfg, ('test',))
    if args.tta:
        use_tta(cfg)
    # Do not overwrite the training config in the work dir.
    tested = renamed(cfg, f'{Path(cfg.filename).stem}{TESTED}')
    datasets = {} if args.tta else report.datasets  # TTA has its own pipeline
    runner = set_up(tested, ['test'], datasets, args.verbose)
    for warning in report.warnings:
        runner.logger.warning(warning)
    runner.register_hook(StrictWeightsHook())
    if hook is not None:
        runner.register_hook(hook)
    runner.test()
    if get_rank() == 0:
        print(f'log: {runner.log_dir}')
