"""Generate a synthetic shapes dataset in the layouts of COCO, ADE20K and ImageNet."""

import argparse

from ..datasets.shapes import MIN_SIZE, write_classes, write_shapes
from .command import Parser, at_least, folder


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    size, count = at_least(MIN_SIZE), at_least(1)
    parser.add_argument(
        'out',
        type=folder,
        help='output directory; overwrites previously generated coco/, ade/ and imagenet/',
    )
    parser.add_argument('--train', type=count, default=200, help='images to train on')
    parser.add_argument('--val', type=count, default=50, help='images held out')
    parser.add_argument('--height', type=size, default=160, help='pixels')
    parser.add_argument('--width', type=size, default=192, help='pixels')
    parser.add_argument('--seed', type=at_least(0), default=0)
    return parser.parse_args()


def main() -> None:
    """Generate."""
    args = parse_args()
    counts = {'train': args.train, 'val': args.val}
    for write in (write_shapes, write_classes):
        write(args.out, counts, args.height, args.width, args.seed)
    print(f'{args.train} images to train on and {args.val} held out are in {args.out}')
