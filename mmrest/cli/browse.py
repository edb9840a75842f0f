"""Draw the images of a config's data set with their annotations, after its pipeline."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS, VISUALIZERS, DefaultScope, init_default_scope
from rich.progress import track

from ..engine.config import load_config
from ..engine.errors import UsageError
from ..preflight import check_files
from .command import Parser, add_config_arguments, at_least, folder


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--output-dir', type=folder, metavar='DIR', help='folder for pictures')
    parser.add_argument('--not-show', action='store_true', help='do not show them on the screen')
    parser.add_argument(
        '--show-interval', type=float, default=2, help='seconds that the screen stays at a picture'
    )
    parser.add_argument('--phase', choices=['train', 'val', 'test'], default='train')
    parser.add_argument('--number', type=at_least(1), metavar='N', help='the first N images alone')
    add_config_arguments(parser)
    args = parser.parse_args()
    if args.not_show and args.output_dir is None:
        parser.error('--not-show leaves nothing to do; give --output-dir DIR')
    if not args.not_show and sys.platform == 'linux' and not os.environ.get('DISPLAY'):
        parser.error('there is no screen (DISPLAY is not set): give --not-show --output-dir DIR')
    return args


def shown(sample: Any) -> Any:
    """A data sample as visualizers take it: boxes as arrays, masks as booleans."""
    sample = sample.numpy()
    instances = sample.get('gt_instances')
    if instances is None:
        return sample
    if hasattr(instances.get('bboxes'), 'tensor'):
        instances.bboxes = instances.bboxes.tensor.numpy()
    if hasattr(instances.get('masks'), 'to_ndarray'):
        instances.masks = instances.masks.to_ndarray().astype(bool)
    return sample


def main() -> None:
    """Draw."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.data_root)
    check_files(cfg, (args.phase,))
    scope = cfg.get('default_scope')
    init_default_scope(scope)
    with DefaultScope.overwrite_default_scope(scope):
        dataset = DATASETS.build(cfg[f'{args.phase}_dataloader'].dataset)
        # mmpretrain's configs give it no name.
        visualizer = VISUALIZERS.build({'name': 'visualizer', **cfg.visualizer})
    if not len(dataset):
        raise UsageError(f'{args.phase}_dataloader.dataset of {args.config} holds no image')
    visualizer.dataset_meta = dataset.metainfo
    draw = visualizer.visualize_cls if scope == 'mmpretrain' else visualizer.add_datasample
    for index in track(range(min(len(dataset), args.number or len(dataset))), 'drawing'):
        item = dataset[index]
        name = f'{index:06d}_{Path(item["data_samples"].img_path).stem}.jpg'
        draw(
            name=name,
            # Colours are RGB to a visualizer, and BGR to the pipelines.
            image=item['inputs'].permute(1, 2, 0).numpy()[..., ::-1].copy(),
            data_sample=shown(item['data_samples']),
            draw_pred=False,
            show=not args.not_show,
            wait_time=args.show_interval,
            out_file=None if args.output_dir is None else str(args.output_dir / name),
        )
