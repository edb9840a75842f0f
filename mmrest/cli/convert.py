"""Convert a checkpoint of another program to a clean file that mmrest loads.

It takes what the authors of ResT and RMT released, and what mmdet, mmseg, mmpretrain and
detectron2 write.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ..checkpoint import CheckpointError, Weights, publish, read_weights, shortened
from ..models.pretrained import named_networks, recognised
from ..models.pyramid import PyramidBackbone
from ..version import __version__
from .command import Parser, published_file

WHOLE_PREFIX = 'backbone.'
"""Where mmdet, mmseg and mmpretrain keep the backbone of a whole network."""


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        source: what to call the file.
        archs: the networks that its backbone fits, such as ``rmt_b``; none where mmrest does not
            know it by a name.
        prefix: what stands before the names of the backbone.
        backbone: the tensors of the backbone, under its own names.
        others: all other tensors, under the names of the file.
        near: the network that has the most of these tensors, in words.
    """

    source: str
    archs: List[str]
    prefix: str
    backbone: Dict[str, Tensor]
    others: Dict[str, Tensor]
    near: str

    @property
    def is_whole(self) -> bool:
        """Whether it is of a whole detector or segmentor under OpenMMLab's names."""
        return self.prefix == WHOLE_PREFIX and bool(self.others)

    def converted(self, backbone_alone: bool) -> Dict[str, Tensor]:
        """The tensors of a clean file: of the backbone, or of the whole network.

        Raises:
            CheckpointError: no network of mmrest has these tensors.
        """
        if not self.archs:
            raise CheckpointError(
                f'{self.source} fits none of the networks that mmrest knows by a name, '
                f'{self.near}; its tensors are {shortened([*self.backbone, *self.others])}'
            )
        if backbone_alone or not self.is_whole:
            return self.backbone
        return {**{WHOLE_PREFIX + n: t for n, t in self.backbone.items()}, **self.others}


def contents(weights: Weights) -> Contents:
    """Look for a backbone of mmrest in a file.

    Args:
        weights: all that the file holds.
    """
    networks = dict(named_networks(PyramidBackbone.families()))
    names = {name for network in networks.values() for name in network.state_dict()}
    prefix = weights.prefix_of(names)
    inside = weights.under(prefix).tensors if prefix else weights.tensors
    archs = recognised(inside, networks.items())
    # Neither a classifier, whose norm may be called like one of the other family, nor the tables
    # of positions in the files of RMT.
    near = archs[0] if archs else max(networks, key=lambda name: _found(networks[name], inside))
    names = networks[near].state_dict()
    of_all = sum(not name.endswith('num_batches_tracked') for name in names)
    words = f'{_found(networks[near], inside)} of {of_all} tensors are those of {near}'
    backbone = {name: tensor for name, tensor in inside.items() if name in names}
    kept = {prefix + name for name in inside} if prefix else backbone
    others = {name: tensor for name, tensor in weights.tensors.items() if name not in kept}
    return Contents(weights.source, archs, prefix, backbone, others, words)


def _found(network: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """How many of the tensors of a network there are, by name and shape."""
    return sum(
        name in tensors and tensors[name].shape == tensor.shape
        for name, tensor in network.state_dict().items()
        if not name.endswith('num_batches_tracked')
    )


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
