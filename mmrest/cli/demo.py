"""Generate the synthetic shapes dataset, and train on it within minutes."""

import time
from pathlib import Path

import torch
from mmengine.utils import digit_version

from ..datasets.shapes import MIN_SIZE, write_classes, write_shapes
from ..engine.building import build_runner
from ..engine.checkpoint_hooks import newest_checkpoint
from ..engine.config import load_config
from ..errors import UsageError
from ..inference.sheets import draw_predictions
from ..reporting.curves import draw_curves, title_of
from ..reporting.logs import metric_text, read_log
from .command import Parser, at_least, folder

# Datasets, as small as the method allows, so that a demo takes minutes: folder that the config
# expects, function, number of training and of held-out images, height and width in pixels.
DETECTION = ('coco', write_shapes, 800, 50, 160, 192)
SEGMENTATION = ('ade', write_shapes, 1600, 50, 64, 80)
CLASSIFICATION = ('imagenet', write_classes, 4800, 300, 48, 48)

DEMOS = {
    'maskrcnn': ('demo_maskrcnn_rmt_t.py', DETECTION),
    'cascade_maskrcnn': ('demo_cascade_maskrcnn_rmt_t.py', DETECTION),
    'retinanet': ('demo_retinanet_rest_lite.py', DETECTION),
    'semfpn': ('demo_semfpn_rest_lite.py', SEGMENTATION),
    'upernet': ('demo_upernet_rmt_t.py', SEGMENTATION),
    'cls_rest_lite': ('demo_cls_rest_lite.py', CLASSIFICATION),
    'cls_rmt_t': ('demo_cls_rmt_t.py', CLASSIFICATION),
}
"""Method -> file in configs/, and dataset."""


def main() -> None:
    """Train on synthetic shapes from scratch within minutes, and plot predictions and curves."""
    parser = Parser(description=main.__doc__)
    add = parser.add_argument
    add('method', nargs='?', choices=DEMOS, default='maskrcnn')
    add('--work-dir', type=folder, help='output directory (default: work_dirs/demo[-METHOD])')
    add('--resume', action='store_true', help='continue an interrupted demo')
    args = parser.parse_args()
    if args.work_dir is None:
        name = 'demo' if args.method == 'maskrcnn' else f'demo-{args.method}'
        args.work_dir = Path('work_dirs', name)
    config, (layout, write, train, val, height, width) = DEMOS[args.method]
    start = time.time()
    data = args.work_dir / 'data'
    if not args.resume:
        print(f'Generating {train} training and {val} held-out images in {data}', flush=True)
        write(data, {'train': train, 'val': val}, height, width)

    cfg = load_config(config, data_root=str(data / layout))
    cfg.work_dir, cfg.launcher = str(args.work_dir), 'none'
    if args.resume:
        cfg.resume, cfg.load_from = True, newest_checkpoint(cfg.work_dir)
        if cfg.load_from is None:
            raise UsageError(f'{cfg.work_dir} has no checkpoint of a demo; drop --resume')
    # One pass over the parameters, rather than one per operation; before torch 2.4 on GPUs only.
    cfg.optim_wrapper.optimizer.fused = digit_version(torch.__version__) >= digit_version('2.4')
    runner = build_runner(cfg)
    runner.train()

    latest = Path(runner.log_dir, 'vis_data', 'scalars.json')
    log = read_log(args.work_dir if args.resume else latest)
    dataset = runner.val_dataloader.dataset
    draw_predictions(runner.model, dataset, args.work_dir / 'predictions.png')
    draw_curves([log], args.work_dir / 'curves.png', [*log.losses, *log.main_metrics])

    print(f'{config}: {time.time() - start:.0f} s; on {val} held-out images:')
    for name in log.main_metrics:
        _, last = log.points(name)[-1]
        print(f'  {title_of(name)}: {metric_text(last, name)}')
    print(f'See {args.work_dir}/predictions.png and {args.work_dir}/curves.png')
    print(f'Checkpoint and logs are in {args.work_dir}')


def shapes() -> None:
    """Generate a synthetic shapes dataset in the layouts of COCO, ADE20K and ImageNet."""
    parser = Parser(description=shapes.__doc__)
    size, count = at_least(MIN_SIZE), at_least(1)
    add = parser.add_argument
    add('out', type=folder, help='output directory; its coco/, ade/ and imagenet/ are overwritten')
    add('--train', type=count, default=200, help='number of training images (default: 200)')
    add('--val', type=count, default=50, help='number of held-out images (default: 50)')
    add('--height', type=size, default=160, help='pixels (default: 160)')
    add('--width', type=size, default=192, help='pixels (default: 192)')
    add('--seed', type=at_least(0), default=0, help='random seed (default: 0)')
    args = parser.parse_args()
    counts = {'train': args.train, 'val': args.val}
    for write in (write_shapes, write_classes):
        write(args.out, counts, args.height, args.width, args.seed)
    print(f'saved {args.train} training and {args.val} held-out images to {args.out}')
