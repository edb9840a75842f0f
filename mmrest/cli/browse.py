"""Draw the images of a dataset with their annotations, after its pipeline."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Dict

import numpy as np
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from rich.progress import track

from ..engine.config import load_config
from ..engine.display import colours
from ..engine.errors import UsageError
from ..inference.outputs import write_picture
from ..inference.overlay import render
from ..inference.sheets import ground_truth, titled
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
    if not args.not_show and sys.platform == 'linux' and not os.environ.get('DISPLAY'):
        parser.error('no display (DISPLAY is not set); pass --not-show --output-dir DIR')
    return args


def drawn(item: Dict[str, Any], metainfo: Dict[str, Any]) -> np.ndarray:
    """Return a sample as the network sees it, (H, W, 3) BGR, with its annotations."""
    image = np.ascontiguousarray(item['inputs'].permute(1, 2, 0).numpy())
    sample, classes = item['data_samples'], metainfo['classes']
    if 'gt_label' in sample:
        names = ', '.join(classes[label] for label in sample.gt_label.tolist())
        return titled(image, names)
    palette = colours(metainfo.get('palette'), len(classes))
    here = BaseDataElement(metainfo=dict(ori_shape=image.shape[:2], scale_factor=(1, 1)))
    return render(image, classes, palette, *ground_truth(sample, here))


def main() -> None:
    """Draw."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.data_root)
    scope = cfg.get('default_scope')
    init_default_scope(scope)
    with DefaultScope.overwrite_default_scope(scope):
        with explained(f'{args.phase}_dataloader.dataset cannot be built'):
            dataset = DATASETS.build(cfg[f'{args.phase}_dataloader'].dataset)
    if not len(dataset):
        raise UsageError(f'{args.phase}_dataloader.dataset of {args.config} has no images')
    visualizer = None if args.not_show else Visualizer()
    for index in track(range(min(len(dataset), args.number or len(dataset))), 'drawing'):
        item = dataset[index]
        name = f'{index:06d}_{Path(item["data_samples"].img_path).stem}.jpg'
        image = drawn(item, dataset.metainfo)
        if args.output_dir is not None:
            write_picture(image, args.output_dir / name)
        if visualizer is not None:
            visualizer.show(image[..., ::-1], win_name=name, wait_time=args.show_interval)
