"""Convert a checkpoint to a clean file that mmrest loads, or publish a run's checkpoint."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple

from torch import Tensor

from ..checkpoint import CheckpointError, Weights, publish, read_checkpoint, weights_of
from ..engine.weight_hooks import dataset_meta
from ..errors import some
from ..models.pyramid import named_networks, recognised
from ..version import __version__
from .command import Parser, markdown_table, written_file

FULL_PREFIX = 'backbone.'  # of keys in full mmdet, mmseg and mmpretrain models
PUBLISHED_META = ('cfg', 'epoch', 'iter', 'mmengine_version', 'seed')  # of a run


class Contents(NamedTuple):
    """Parts of a checkpoint."""

    archs: List[str]  # networks that its backbone fits, such as rmt_b
    prefix: str  # of the backbone's keys
    backbone: Dict[str, Tensor]  # without the prefix
    others: Dict[str, Tensor]
    best_match: str  # sentence that names the network with the most matching tensors


def find_contents(weights: Weights) -> Contents:
    """Find an mmrest backbone in a checkpoint."""
    networks = named_networks()
    states = {name: network.state_dict() for name, network in networks.items()}
    prefix = weights.prefix_of({name for state in states.values() for name in state})
    inside = weights.under(prefix).tensors if prefix else weights.tensors
    shapes = {(name, tensor.shape) for name, tensor in inside.items()}
    matching = {
        network: len(shapes.intersection((name, tensor.shape) for name, tensor in state.items()))
        for network, state in states.items()
    }
    archs = recognised(Weights('', inside), networks)
    nearest = archs[0] if archs else max(matching, key=matching.get)
    # Drops the norm of a classifier, whose name the other family may use, and the position tables
    # in the official weights of RMT.
    backbone = {name: tensor for name, tensor in inside.items() if name in states[nearest]}
    kept = {prefix + name for name in inside} if prefix else backbone
    others = {name: tensor for name, tensor in weights.tensors.items() if name not in kept}
    best_match = f'{matching[nearest]} of {len(states[nearest])} tensors of {nearest} match'
    return Contents(archs, prefix, backbone, others, best_match)


def add_files(parser: Parser, **options: str) -> None:
    """Add the arguments for the input and output file."""
    parser.add_argument('in_file', help='checkpoint file')
    parser.add_argument(
        'out_file', **options, type=written_file('.pth', '.safetensors'),
        help='output file, .pth or .safetensors; the first 8 digits of its SHA-256 are appended '
        'to its name',
    )  # fmt: skip


def table_of(contents: Contents) -> str:
    """Return a table of the parts of a checkpoint."""
    backbone = contents.prefix.rstrip('.') or 'backbone'
    sizes = {backbone: [tensor.numel() for tensor in contents.backbone.values()]}
    for name, tensor in contents.others.items():
        sizes.setdefault(name.split('.')[0], []).append(tensor.numel())
    rows = ([part, str(len(each)), f'{sum(each):,}'] for part, each in sizes.items())
    return markdown_table(['part', 'tensors', 'values'], rows)


def main() -> None:
    parser = Parser(
        description='Convert a checkpoint of the official ResT or RMT code, mmdet, mmseg, '
        'mmpretrain or detectron2 to a clean file that mmrest loads.'
    )
    add_files(parser, nargs='?')
    add = parser.add_argument
    add('--list', action='store_true', help='list the parts of the checkpoint')
    add('--prefix', help='key prefix of the backbone, if the file contains several networks')
    add('--backbone', action='store_true', help='save the backbone only (drop neck and heads)')
    args = parser.parse_args()
    if args.out_file is None and not args.list:
        parser.error('pass an output file, or --list')
    content = read_checkpoint(args.in_file)
    weights = weights_of(args.in_file, content)
    weights = weights.under(args.prefix) if args.prefix else weights
    contents = find_contents(weights)
    if args.list:
        fits = ', '.join(contents.archs) or f'no network of mmrest; {contents.best_match}'
        print(f'{table_of(contents)}\n{weights.source} fits {fits}')
    if args.out_file is None:
        return
    if not contents.archs:
        raise CheckpointError(
            f'{weights.source} does not match any network of mmrest: {contents.best_match}; its '
            f'tensors are {some([*contents.backbone, *contents.others])}. If the network has '
            'another arch, norm_cfg or in_channels, use mmrest publish'
        )
    tensors, arch = contents.backbone, contents.archs[0]
    meta = dict(arch=arch, mmrest_version=__version__)
    if contents.prefix == FULL_PREFIX and contents.others and not args.backbone:
        if dataset_meta(content):
            meta['dataset_meta'] = dataset_meta(content)
        tensors = {**{FULL_PREFIX + n: t for n, t in tensors.items()}, **contents.others}
    final = publish(args.out_file, tensors, meta)
    line = f'{final}: {len(tensors)} tensors of {arch}, from {weights.source}'
    dropped = [name for name in contents.others if name not in tensors]
    line += f'; {len(dropped)} dropped ({some(dropped)})' if dropped else ''
    print(line + not_kept(final, meta))


def not_kept(path: Path, meta: Dict[str, Any]) -> str:
    """Return a note on the metadata that a file cannot keep."""
    others = [name for name, value in meta.items() if not isinstance(value, str)]
    if path.suffix != '.safetensors' or not others:
        return ''
    return f'; {path.suffix} keeps only text, not {some(others)}'


def strip() -> None:
    """Strip a checkpoint of a run to its weights and metadata."""
    parser = Parser(description=strip.__doc__)
    add_files(parser)
    args = parser.parse_args()
    content = read_checkpoint(args.in_file)
    weights = weights_of(args.in_file, content)
    meta = content.get('meta') or {}
    kept = {name: meta[name] for name in PUBLISHED_META if name in meta}
    if dataset_meta(content):
        kept['dataset_meta'] = dataset_meta(content)
    final = publish(args.out_file, weights.tensors, kept)
    print(f'{final}: {len(weights.tensors)} tensors of {weights.source}{not_kept(final, kept)}')
