"""Train on synthetic shapes from scratch within minutes, and plot predictions and curves."""

import argparse
import time
from pathlib import Path
from typing import Callable, Dict, NamedTuple

import torch
from mmengine.utils import digit_version
from rich.console import Console
from rich.table import Table

from ..datasets.shapes import write_classes, write_shapes
from ..engine.building import build_runner
from ..engine.config import load_config
from ..inference.sheets import draw_classes, draw_predictions
from ..reporting.curves import draw_curves
from ..reporting.logs import read_log
from .command import Parser, folder


class Images(NamedTuple):
    """Synthetic dataset of a demo.

    Attributes:
        layout: folder that the config expects.
        write: function that generates it.
        train: number of training images.
        val: number of held-out images.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """

    layout: str
    write: Callable
    train: int
    val: int
    height: int
    width: int


# As small as the method allows, so that a demo takes minutes.
DETECTION = Images('coco', write_shapes, 800, 50, 160, 192)
SEGMENTATION = Images('ade', write_shapes, 1600, 50, 64, 80)
CLASSIFICATION = Images('imagenet', write_classes, 4800, 300, 48, 48)


class Demo(NamedTuple):
    """A training on synthetic shapes.

    Attributes:
        config: file in configs/.
        images: dataset.
        metrics: name in the log -> title.
        perfect: largest value; mmdet's metrics are fractions, others percentages.
    """

    config: str
    images: Images
    metrics: Dict[str, str]
    perfect: float


BOXES = {'coco/bbox_mAP': 'box AP', 'coco/bbox_mAP_50': 'box AP50'}
MASKS = {**BOXES, 'coco/segm_mAP': 'mask AP', 'coco/segm_mAP_50': 'mask AP50'}
CLASSES = {'accuracy/top1': 'top-1'}
LABEL_MAPS = {'mIoU': 'mIoU', 'mAcc': 'mAcc', 'aAcc': 'aAcc'}

DEMOS = {
    'maskrcnn': Demo('demo_maskrcnn_rmt_t.py', DETECTION, MASKS, 1),
    'cascade_maskrcnn': Demo('demo_cascade_maskrcnn_rmt_t.py', DETECTION, MASKS, 1),
    'retinanet': Demo('demo_retinanet_rest_lite.py', DETECTION, BOXES, 1),
    'semfpn': Demo('demo_semfpn_rest_lite.py', SEGMENTATION, LABEL_MAPS, 100),
    'upernet': Demo('demo_upernet_rmt_t.py', SEGMENTATION, LABEL_MAPS, 100),
    'cls_rest_lite': Demo('demo_cls_rest_lite.py', CLASSIFICATION, CLASSES, 100),
    'cls_rmt_t': Demo('demo_cls_rmt_t.py', CLASSIFICATION, CLASSES, 100),
}


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('method', nargs='?', choices=DEMOS, default='maskrcnn')
    parser.add_argument(
        '--work-dir', type=folder,
        help='output directory (default: work_dirs/demo, or work_dirs/demo-METHOD)',
    )  # fmt: skip
    args = parser.parse_args()
    if args.work_dir is None:
        name = 'demo' if args.method == 'maskrcnn' else f'demo-{args.method}'
        args.work_dir = Path('work_dirs', name)
    return args


def main() -> None:
    """Generate, train, evaluate and plot."""
    args = parse_args()
    demo = DEMOS[args.method]
    console = Console()
    start = time.time()
    data = args.work_dir / 'data'
    layout, write, train, val, height, width = demo.images
    write(data, {'train': train, 'val': val}, height, width)
    console.print(f'Generated {train} training and {val} held-out images in {data}')

    cfg = load_config(demo.config, data_root=str(data / layout))
    cfg.work_dir, cfg.launcher = str(args.work_dir), 'none'
    # One pass over the parameters, rather than one per operation; before torch 2.4 on GPUs only.
    cfg.optim_wrapper.optimizer.fused = digit_version(torch.__version__) >= digit_version('2.4')
    runner = build_runner(cfg)
    runner.train()

    log = read_log(Path(runner.log_dir, 'vis_data', 'scalars.json'))
    draw = draw_classes if demo.metrics is CLASSES else draw_predictions
    draw(runner.model, runner.val_dataloader.dataset, args.work_dir / 'predictions.png')
    draw_curves([log], args.work_dir / 'curves.png', [*log.losses, *demo.metrics])
    _, last = log.val[-1]

    table = Table(title=f'{demo.config}: {time.time() - start:.0f} s', title_justify='left')
    table.add_column(f'on {val} held-out images')
    table.add_column('', justify='right')
    for name, title in demo.metrics.items():
        table.add_row(title, f'{last[name] / demo.perfect:.3f}')
    console.print(table)
    console.print(f'See {args.work_dir}/predictions.png and {args.work_dir}/curves.png')
    console.print(f'Checkpoint and logs are in {args.work_dir}; next steps are in README.md')
