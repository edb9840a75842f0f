"""Inspect a run before it starts: its resolved config, and the images of its datasets."""

from pathlib import Path

import cv2
from mmengine.registry import DATASETS
from rich.progress import track

from ..datasets.palette import classes_and_colours
from ..engine.config import PHASES, default_scope, load_config
from ..errors import UsageError, explained
from ..inference.outputs import Viewer, refuse_to_overwrite
from ..inference.overlay import draw_annotations, drawable
from .command import Parser, add_config_arguments, at_least, folder, written_file


def config() -> None:
    """Print a resolved config: bases merged, options applied."""
    parser = Parser(description=config.__doc__)
    add = parser.add_argument
    add('config', help='config file, or name of a shipped config')
    add_config_arguments(parser)
    add(
        '--save-path', type=written_file('.py', '.json', '.yml'),
        help='save it to this file (.py, .json or .yml) instead',
    )  # fmt: skip
    args = parser.parse_args()
    cfg = load_config(args.config, args.cfg_options, args.data_root)
    if args.save_path is None:
        print(cfg.pretty_text)
    else:
        refuse_to_overwrite([args.save_path], [args.config], '--save-path')
        args.save_path.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(args.save_path)


def browse() -> None:
    """Visualize the images of a dataset with their annotations, after its pipeline."""
    parser = Parser(description=browse.__doc__)
    add = parser.add_argument
    add('config', help='config file, or name of a shipped config')
    add('--output-dir', type=folder, metavar='DIR', help='folder for visualizations')
    add('--not-show', action='store_true', help='do not show images in a window')
    add('--show-interval', type=float, default=2, help='seconds to display each image')
    add('--phase', choices=PHASES, default='train', help='dataset to draw (default: train)')
    add('--number', type=at_least(1), metavar='N', help='only the first N images')
    add_config_arguments(parser)
    args = parser.parse_args()
    if args.not_show and args.output_dir is None:
        parser.error('--not-show leaves nothing to do; pass --output-dir DIR')
    viewer = Viewer(args.output_dir, not args.not_show, args.show_interval)
    cfg = load_config(args.config, args.cfg_options, args.data_root)
    with explained(f'{args.phase}_dataloader.dataset cannot be built'), default_scope(cfg):
        dataset = DATASETS.build(cfg[f'{args.phase}_dataloader'].dataset)
    if not len(dataset):
        raise UsageError(f'{args.phase}_dataloader.dataset of {args.config} has no images')
    classes, palette = classes_and_colours(dataset)
    for index in track(range(min(len(dataset), args.number or len(dataset))), 'drawing'):
        item = dataset[index]
        sample = item['data_samples']
        if getattr(item['inputs'], 'ndim', 0) != 3:
            raise UsageError(
                f'{args.phase}_dataloader.dataset packs several views or frames per sample, but '
                'browse draws only single images'
            )
        image = drawable(item['inputs'].permute(1, 2, 0).numpy())
        if args.phase != 'train' and 'gt_label' not in sample:
            # Annotations of val and test pipelines are at the size of the image file.
            width, height = sample.ori_shape[1::-1]
            across, down = sample.get('scale_factor', (1, 1))
            image = image[: round(height * down), : round(width * across)]  # without padding
            image = cv2.resize(image, (width, height))
        drawn = draw_annotations(image, sample, classes, palette)
        viewer.add(drawn, f'{index:06d}_{Path(sample.get("img_path") or "image").stem}')
