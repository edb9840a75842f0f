"""Convert a checkpoint of another program to a clean file that mmrest loads.

It takes what the authors of ResT and RMT released, and what mmdet, mmseg, mmpretrain and
detectron2 write.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Dict

from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..apis.conversion import Contents, contents
from ..checkpoint import publish, read_weights, shortened
from ..version import __version__
from .command import Parser, published_file


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('in_file', help='file of weights')
    parser.add_argument(
        'out_file',
        nargs='?',
        type=published_file,
        help='name of the new file, .pth or .safetensors; the beginning of its SHA-256 is put '
        'behind it',
    )
    parser.add_argument('--list', action='store_true', help='show what the file holds')
    parser.add_argument(
        '--prefix',
        help='what stands before the names of the backbone, where the file holds several networks',
    )
    parser.add_argument(
        '--backbone', action='store_true', help='leave out neck and heads of a whole network'
    )
    args = parser.parse_args()
    if args.out_file is None and not args.list:
        parser.error('give the name of the new file, or --list')
    return args


def table(found: Contents) -> Table:
    """The parts of a file: tensors and numbers, and the network that they are of."""
    rows = Table(title=found.source, title_justify='left')
    for column in ('part', 'tensors', 'values', 'fits'):
        rows.add_column(column, justify='left' if column in ('part', 'fits') else 'right')
    tensors, values = Counter(), Counter()
    for name, tensor in found.others.items():
        part = name.split('.')[0]
        tensors[part] += 1
        values[part] += tensor.numel()
    of_backbone = sum(tensor.numel() for tensor in found.backbone.values())
    fits = ', '.join(found.archs) or f'no network that mmrest knows; {found.near}'
    name = found.prefix.rstrip('.') or 'backbone'
    rows.add_row(name, str(len(found.backbone)), f'{of_backbone:,}', fits)
    for part, count in tensors.items():
        rows.add_row(part, str(count), f'{values[part]:,}', '')
    return rows


def save(found: Contents, tensors: Dict[str, Tensor], path: Path) -> None:
    """Write the new file and say what is in it."""
    meta = dict(arch=found.archs[0], mmrest_version=__version__)
    final = publish(path, tensors, meta)
    line = f'{final}: {len(tensors)} tensors of {found.archs[0]}, from {found.source}'
    left_out = [name for name in found.others if name not in tensors]
    if left_out:
        line += f'; {len(left_out)} left out ({shortened(left_out)})'
    print(line)


def main() -> None:
    """Convert or list."""
    args = parse_args()
    found = contents(read_weights(args.in_file, args.prefix))
    if args.list:
        Console().print(table(found))
    if args.out_file is not None:
        save(found, found.converted(args.backbone), args.out_file)
