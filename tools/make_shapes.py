"""Draw squares, discs and triangles as a data set in the layouts of COCO and ADE20K."""

import argparse
from pathlib import Path

from mmrest.datasets.shapes import write_shapes


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='folder; gets coco/ and ade/')
    parser.add_argument('--train', type=int, default=200, help='images to train on')
    parser.add_argument('--val', type=int, default=50, help='images held out')
    parser.add_argument('--height', type=int, default=160, help='pixels')
    parser.add_argument('--width', type=int, default=192, help='pixels')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Draw."""
    args = parse_args()
    counts = {'train': args.train, 'val': args.val}
    write_shapes(args.out, counts, args.height, args.width, args.seed)
    print(f'{args.train} images to train on and {args.val} held out are in {args.out}')


if __name__ == '__main__':
    main()
