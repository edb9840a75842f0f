"""Generate the synthetic shapes dataset, and draw the images of any dataset."""

from pathlib import Path

import cv2
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from rich.progress import track

from ..datasets.shapes import MIN_SIZE, write_classes, write_shapes
from ..engine.config import load_config
from ..engine.display import colours
from ..errors import UsageError
from ..inference.outputs import Viewer
from ..inference.overlay import draw_annotations, drawable
from ..preflight import explained
from .command import Parser, add_config_arguments, at_least, folder


def shapes() -> None:
    """Generate the dataset."""
    parser = Parser(
        description='Generate a synthetic shapes dataset in the layouts of COCO, ADE20K and '
        'ImageNet.'
    )
    size, count = at_least(MIN_SIZE), at_least(1)
    add = parser.add_argument
    add(
        'out', type=folder,
        help='output directory; overwrites previously generated coco/, ade/ and imagenet/',
    )  # fmt: skip
    add('--train', type=count, default=200, help='number of training images (default: 200)')
    add('--val', type=count, default=50, help='number of held-out images (default: 50)')
    add('--height', type=size, default=160, help='pixels (default: 160)')
    add('--width', type=size, default=192, help='pixels (default: 192)')
    add('--seed', type=at_least(0), default=0)
    args = parser.parse_args()
    counts = {'train': args.train, 'val': args.val}
    for write in (write_shapes, write_classes):
        write(args.out, counts, args.height, args.width, args.seed)
    print(f'saved {args.train} training and {args.val} held-out images to {args.out}')


def browse() -> None:
    """Draw images with their annotations."""
    parser = Parser(
        description='Draw the images of a dataset with their annotations, after its pipeline.'
    )
    add = parser.add_argument
    add('config', help='config file, or name of a shipped config')
    add('--output-dir', type=folder, metavar='DIR', help='folder for visualizations')
    add('--not-show', action='store_true', help='do not show images in a window')
    add('--show-interval', type=float, default=2, help='seconds to display each image')
    add('--phase', choices=['train', 'val', 'test'], default='train')
    add('--number', type=at_least(1), metavar='N', help='only the first N images')
    add_config_arguments(parser)
    args = parser.parse_args()
    if args.not_show and args.output_dir is None:
        parser.error('--not-show leaves nothing to do; pass --output-dir DIR')
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
        image = drawable(item['inputs'].permute(1, 2, 0).numpy())
        if args.phase != 'train' and 'gt_label' not in sample:
            # Annotations of val and test pipelines are at the size of the image file.
            image = cv2.resize(image, tuple(sample.ori_shape[1::-1]))
        drawn = draw_annotations(image, sample, classes, palette)
        viewer.add(drawn, f'{index:06d}_{Path(sample.img_path).stem}')
