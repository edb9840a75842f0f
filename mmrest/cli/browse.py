"""Draw the images of a dataset with their annotations, after its pipeline."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from rich.progress import track

from ..engine.config import load_config
from ..engine.display import colours
from ..engine.errors import UsageError
from ..inference.outputs import Viewer
from ..inference.overlay import draw_annotations
from ..preflight import explained
from .command import Parser, add_config_arguments, at_least, folder


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--output-dir', type=folder, metavar='DIR', help='folder for visualizations'
    )
    parser.add_argument('--not-show', action='store_true', help='do not show images in a window')
    parser.add_argument(
        '--show-interval', type=float, default=2, help='seconds to display each image'
    )
    parser.add_argument('--phase', choices=['train', 'val', 'test'], default='train')
    parser.add_argument('--number', type=at_least(1), metavar='N', help='only the first N images')
    add_config_arguments(parser)
    args = parser.parse_args()
    if args.not_show and args.output_dir is None:
        parser.error('--not-show leaves nothing to do; pass --output-dir DIR')
    return args


def main() -> None:
    """Draw."""
    args = parse_args()
    viewer = Viewer(args.output_dir, not args.not_show, args.show_interval)
    cfg = load_config(args.config, args.cfg_options, args.data_root)
    scope = cfg.get('default_scope')
    init_default_scope(scope)
    with DefaultScope.overwrite_default_scope(scope):
        with explained(f'{args.phase}_dataloader.dataset cannot be built'):
            dataset = DATASETS.build(cfg[f'{args.phase}_dataloader'].dataset)
    if not len(dataset):
        raise UsageError(f'{args.phase}_dataloader.dataset of {args.config} has no images')
    classes = dataset.metainfo['classes']
    palette = colours(dataset.metainfo.get('palette'), len(classes))
    for index in track(range(min(len(dataset), args.number or len(dataset))), 'drawing'):
        item = dataset[index]
        sample = item['data_samples']
        image = np.ascontiguousarray(item['inputs'].permute(1, 2, 0).numpy())
        if args.phase != 'train' and 'gt_label' not in sample:
            # Annotations of val and test pipelines are at the size of the image file.
            image = cv2.resize(image, tuple(sample.ori_shape[1::-1]))
        drawn = draw_annotations(image, sample, classes, palette)
        viewer.add(drawn, f'{index:06d}_{Path(sample.img_path).stem}')
