"""Plot decay, attention, receptive fields and feature maps of a backbone."""

import argparse
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from mmengine.config import Config
from torch import Tensor

from ..analysis import networks
from ..analysis.attention_maps import attention_maps, decays
from ..analysis.features import principal_components, receptive_fields
from ..analysis.figures import Group, Scene, draw
from ..engine.building import image_channels
from ..errors import UsageError, explained
from ..export.onnx import Normalise
from ..inference.inputs import read_image
from ..inference.outputs import refuse_to_overwrite
from ..models.pyramid import PyramidBackbone
from ..models.rmt import RMT
from ..reporting.curves import SUFFIXES
from .command import Parser, add_cfg_options, add_network, at_least, written_file

Figure = Tuple[List[Group], Scene]
"""Groups of panels, and the image that they belong to."""


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    decay = _command(commands, 'decay', draw_decay)
    attention = _command(commands, 'attention', draw_attentions)
    field = _command(commands, 'receptive-field', draw_fields)
    pca = _command(commands, 'pca', draw_pca)
    for command in (attention, pca):
        command.add_argument('--image', required=True, metavar='FILE')
    for command in (attention, field, pca):
        command.add_argument('--checkpoint', metavar='FILE', help='weights (default: random)')
    for command in (decay, attention):
        command.add_argument(
            '--token', nargs=2, type=at_least(0), metavar=('Y', 'X'),
            help='pixel of the query token (default: image centre)',
        )  # fmt: skip
    number, add = at_least(1), attention.add_argument
    add('--stage', nargs='+', type=number, metavar='N', help='counted from 1 (default: all)')
    add('--block', type=number, metavar='N', help='counted from 1 (default: the last)')
    add(
        '--head', type=_head, default='mean', metavar='N',
        help='counted from 1, or mean (default), or all',
    )  # fmt: skip
    add = field.add_mutually_exclusive_group().add_argument
    add('--image', nargs='+', metavar='FILE', help='images to average over (default: noise)')
    add('--samples', type=number, metavar='N', help='number of noise images (default: 16)')
    pca.add_argument('--neck', action='store_true', help="use the maps of the config's neck")
    return parser.parse_args()


def _command(commands: Any, name: str, run: Callable) -> Parser:
    summary = (run.__doc__ or '').partition('\n')[0]  # None with python -OO
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    add = parser.add_argument
    add_network(parser, "the image's, or 224", '--size')
    add(
        '--out', type=written_file(*SUFFIXES), metavar='FILE',
        help='output file (default: work_dirs/visualize/NETWORK_COMMAND.png)',
    )  # fmt: skip
    add_cfg_options(parser, 'model.backbone.arch=b')
    return parser


def _head(text: str) -> str:
    if text not in ('mean', 'all') and not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 1, mean or all')
    return text


def point_of(args: argparse.Namespace, size: Tuple[int, int]) -> Tuple[int, int]:
    """Return the pixel of the query token."""
    if args.token is None:
        return size[0] // 2, size[1] // 2
    row, column = args.token
    if row >= size[0] or column >= size[1]:
        raise UsageError(f'--token {row} {column} is outside the image of {size[0]} x {size[1]}')
    return row, column


def blocks_of(args: argparse.Namespace, backbone: PyramidBackbone) -> Dict[int, int]:
    """Return stage -> block, both counted from 0, of the attention to draw."""
    chosen = {}
    for stage in args.stage or range(1, backbone.num_stages + 1):
        if stage > backbone.num_stages:
            raise UsageError(f'--stage {stage}: {args.network} has {backbone.num_stages} stages')
        blocks = len(backbone.blocks(stage - 1))
        heads = backbone.arch.num_heads[stage - 1]
        head = int(args.head) if args.head.isdigit() else None
        for name, number, most in (('block', args.block, blocks), ('head', head, heads)):
            if number is not None and number > most:
                raise UsageError(
                    f'--{name} {number}: stage {stage} of {args.network} has {most} {name}s; '
                    'choose stages with --stage'
                )
        chosen[stage - 1] = (args.block or blocks) - 1
    return chosen


def our_backbone(args: argparse.Namespace, cfg: Config, family: type) -> Any:
    """Return the backbone of a config; raise UsageError if it is not of the family."""
    checkpoint = getattr(args, 'checkpoint', None)  # the decay does not depend on weights
    backbone = networks.build_network(networks.backbone_config(cfg), checkpoint)
    if not isinstance(backbone, family):
        needed = 'RMT' if family is RMT else 'ResT or RMT'
        raise UsageError(
            f'the backbone of {args.network} is a {type(backbone).__name__}; {args.command} needs '
            f'{needed}'
        )
    return backbone


def given_image(
    args: argparse.Namespace, cfg: Config, network: Any, path: str, size: Optional[Tuple[int, int]]
) -> Tuple[np.ndarray, Tensor]:
    """Return an image file as read, and as the input of a network with three channels."""
    channels = image_channels(network)
    if channels != 3:
        raise UsageError(
            f'{args.network} takes images of {channels} channels; {args.command} reads 3'
        )
    image = read_image(path, size)
    bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].contiguous()
    return image, Normalise(networks.preprocessing(cfg))(bgr)


def draw_decay(args: argparse.Namespace, cfg: Config) -> Figure:
    """Draw the decay of every head and stage of RMT for one token."""
    backbone = our_backbone(args, cfg, RMT)
    size = args.size or networks.CLASSIFICATION_SIZE
    point = point_of(args, size)
    groups = []
    for stage, decay in enumerate(decays(backbone, *size, point), start=1):
        gamma, weights, token, axial = decay
        heads = enumerate(zip(gamma, weights), start=1)
        panels = {f'head {head}: $\\gamma$ = {g:.4f}': weight for head, (g, weight) in heads}
        title = f'stage {stage}, {"axial" if axial else "full"}, token {token}, {_keys(weights)}'
        groups.append(Group(title, panels, Normalize(0, 1), label='decay'))
    return groups, Scene(size, point=point)


def draw_attentions(args: argparse.Namespace, cfg: Config) -> Figure:
    """Draw the attention of one token.

    Weights of one sign have a colour scale from 0, signed ones a diverging scale around 0.
    """
    backbone = our_backbone(args, cfg, PyramidBackbone)
    blocks = blocks_of(args, backbone)
    image, given = given_image(args, cfg, backbone, args.image, args.size)
    point = point_of(args, image.shape[:2])
    groups = []
    for stage, attention in sorted(attention_maps(backbone, given, blocks, point).items()):
        heads = enumerate(attention.weights, start=1)
        panels = {f'head {head}': weights for head, weights in heads}
        if args.head == 'mean':
            panels = {'mean of the heads' * (len(panels) > 1): attention.weights.mean(0)}
        elif args.head != 'all':
            name = f'head {int(args.head)}'
            panels = {name: panels[name]}
        largest = max(float(weights.abs().max()) for weights in panels.values()) or 1.0
        signed = any(weights.min() < 0 for weights in panels.values())
        norm = TwoSlopeNorm(0, -largest, largest) if signed else Normalize(0, largest)
        title = f'stage {stage + 1}, block {blocks[stage] + 1}, {attention.kind}\n'
        title += f'token {attention.token}, {_keys(attention.weights)}'
        groups.append(Group(title, panels, norm, 'RdBu_r' if signed else 'Reds', 'weight'))
    return groups, Scene(image.shape[:2], image, point)


def _keys(weights: Tensor) -> str:
    return f'{weights.shape[-2]} x {weights.shape[-1]} keys'


def draw_fields(args: argparse.Namespace, cfg: Config) -> Figure:
    """Draw the effective receptive field of each stage."""
    backbone = networks.build_network(networks.backbone_config(cfg), args.checkpoint)
    size = args.size or networks.CLASSIFICATION_SIZE
    if args.image:
        # All are resized to the size of the first one.
        size = read_image(args.image[0], args.size).shape[:2]
        images = (given_image(args, cfg, backbone, path, size)[1] for path in args.image)
    else:
        generator = torch.Generator().manual_seed(0)
        shape = (1, image_channels(backbone), *size)
        images = (torch.randn(shape, generator=generator) for _ in range(args.samples or 16))
    fields = receptive_fields(backbone, images)
    groups = []
    for index, (strength, half) in zip(_indices(backbone, fields), fields):
        title = f'stage {index + 1}\nhalf in {half:.2%} of the pixels'
        panels = {'': strength.clamp_min(1e-4)}
        groups.append(Group(title, panels, LogNorm(1e-3, 1), 'magma', 'relative strength'))
    return groups, Scene(size)


def draw_pca(args: argparse.Namespace, cfg: Config) -> Figure:
    """Draw the first three principal components of feature maps, as colours."""
    if args.neck and cfg.model.get('neck') is None:
        raise UsageError(f'--neck: the model of {args.network} has no neck; drop --neck')
    part_cfg = cfg if args.neck else networks.backbone_config(cfg)
    model = networks.build_network(part_cfg, args.checkpoint)
    image, given = given_image(args, cfg, model, args.image, args.size)
    with torch.no_grad():
        maps = model.extract_feat(given) if args.neck else model(given)
    if any(feature_map.ndim != 4 for feature_map in maps):
        part = 'neck' if args.neck else 'backbone'
        raise UsageError(f'the {part} of {args.network} returns no maps; use another network')
    groups = []
    for index, feature_map in zip(_indices(model, maps), maps):
        colours, variances = principal_components(feature_map[0])
        shares = ' + '.join(f'{share:.0%}' for share in variances.tolist())
        name = f'{"level" if args.neck else "stage"} {index + 1}'
        height, width = feature_map.shape[-2:]
        title = f'{name}: {height} x {width}\nvariance {shares}'
        groups.append(Group(title, {'': colours}))
    return groups, Scene(image.shape[:2], image)


def _indices(network: Any, maps: Sequence[Any]) -> Sequence[int]:
    """Return the stages of a backbone's maps, or levels of a neck's, counted from 0."""
    return getattr(network, 'out_indices', range(len(maps)))


def main() -> None:
    args = parse_args()
    cfg = networks.network_config(args.network, args.cfg_options)
    if args.out is None:
        name = f'{Path(args.network).stem}_{args.command.replace("-", "_")}.png'
        args.out = Path('work_dirs', 'visualize', name)
    read = getattr(args, 'image', None) or ()
    refuse_to_overwrite([args.out], [read] if isinstance(read, str) else read, '--out')
    with explained(f'{args.command} of {args.network} fails', 'use another --size or network'):
        groups, scene = args.run(args, cfg)
    draw(groups, scene, args.out)
    print(f'saved to {args.out}')
