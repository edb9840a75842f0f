"""Draw what a backbone does: decay, attention, effective receptive field, feature pyramid."""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch
from mmengine.config import Config

from ..apis.attention_maps import attention_maps, decays
from ..apis.feature_pca import principal_components
from ..apis.figures import (
    Scene,
    draw_attention,
    draw_components,
    draw_decays,
    draw_receptive_fields,
)
from ..apis.images import normalised, read_image
from ..apis.networks import (
    CLASSIFICATION_SIZE,
    OURS,
    PEERS,
    backbone_config,
    build_network,
    network_config,
    preprocessing,
)
from ..apis.receptive_field import receptive_fields
from ..engine.errors import UsageError
from ..models.pyramid import PyramidBackbone
from ..models.rmt import RMT
from .command import (
    Parser,
    add_cfg_options,
    add_shape_argument,
    at_least,
    written_file,
)


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)

    decay = _command(commands, 'decay', 'decay of every head and stage of RMT for one token')
    _add_token(decay)

    attention = _command(commands, 'attention', 'what one token attends to', weights=True)
    attention.add_argument('--image', required=True, metavar='FILE')
    attention.add_argument(
        '--stage', nargs='+', type=at_least(1), metavar='N', help='counted from 1 (default: all)'
    )
    attention.add_argument(
        '--block', type=at_least(1), metavar='N', help='of a stage, from 1 (default: the last)'
    )
    attention.add_argument(
        '--head', type=_head, default='mean', metavar='N',
        help='counted from 1, or mean (the default), or all',
    )  # fmt: skip
    _add_token(attention)

    field = _command(
        commands, 'receptive-field', 'effective receptive field of each stage', weights=True
    )
    averaged = field.add_mutually_exclusive_group()
    averaged.add_argument(
        '--image', nargs='+', metavar='FILE', help='images to average over (default: noise)'
    )
    averaged.add_argument(
        '--samples', type=at_least(1), metavar='N', help='images of noise (default: 16)'
    )

    pca = _command(
        commands, 'pca', 'feature maps, their three principal components as colours', weights=True
    )
    pca.add_argument('--image', required=True, metavar='FILE')
    pca.add_argument(
        '--neck', action='store_true', help='the maps that the neck of a config makes of them'
    )
    return parser.parse_args()


def _command(commands: Any, name: str, described: str, weights: bool = False) -> Parser:
    """A subcommand with what all of them know."""
    parser = commands.add_parser(name, help=described, description=described)
    parser.add_argument(
        'network', metavar='CONFIG', help=f'config file, or one of {", ".join([*OURS, *PEERS])}'
    )
    if weights:
        parser.add_argument('--checkpoint', metavar='FILE', help='weights (default: random ones)')
    default = "the image's own, or 224 224" if weights else '224 224'
    add_shape_argument(parser, '--size', f'of the image, one number for a square ({default})')
    parser.add_argument(
        '--out', type=written_file('.png', '.jpg', '.pdf', '.svg'), metavar='FILE',
        help='the picture (default: work_dirs/visualize/NETWORK_COMMAND.png)',
    )  # fmt: skip
    add_cfg_options(parser, 'model.backbone.arch=b')
    return parser


def _add_token(parser: Parser) -> None:
    parser.add_argument(
        '--token', nargs=2, type=at_least(0), metavar=('Y', 'X'),
        help='a pixel of the image, whose token is looked at (default: the middle)',
    )  # fmt: skip


def _head(text: str) -> str:
    if text not in ('mean', 'all') and not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number from 1 up, mean nor all')
    return text


def point_of(args: argparse.Namespace, size: Tuple[int, int]) -> Tuple[int, int]:
    """The pixel whose token is looked at."""
    if args.token is None:
        return size[0] // 2, size[1] // 2
    row, column = args.token
    if row >= size[0] or column >= size[1]:
        raise UsageError(
            f'--token {row} {column} lies outside of the image of {size[0]} x {size[1]}'
        )
    return row, column


def blocks_of(args: argparse.Namespace, backbone: PyramidBackbone) -> Dict[int, int]:
    """Stage -> block, counted from 0, whose attention is drawn."""
    chosen = {}
    for stage in args.stage or range(1, backbone.num_stages + 1):
        if stage > backbone.num_stages:
            raise UsageError(f'--stage {stage}: {args.network} has {backbone.num_stages} stages')
        blocks = len(backbone.blocks(stage - 1))
        if args.block is not None and args.block > blocks:
            raise UsageError(
                f'--block {args.block}: stage {stage} of {args.network} has {blocks} blocks; '
                '--stage chooses among the stages'
            )
        chosen[stage - 1] = (args.block or blocks) - 1
        heads = backbone.arch.num_heads[stage - 1]
        if args.head.isdigit() and int(args.head) > heads:
            raise UsageError(
                f'--head {args.head}: stage {stage} of {args.network} has {heads} heads; '
                '--stage chooses among the stages'
            )
    return chosen


def our_backbone(args: argparse.Namespace, cfg: Config, family: type, what: str) -> Any:
    """The backbone of a config, which must be of a family."""
    backbone = build_network(backbone_config(cfg), getattr(args, 'checkpoint', None))
    if not isinstance(backbone, family):
        raise UsageError(f'{args.network} has the backbone {type(backbone).__name__}; {what}')
    return backbone


def draw_decay(args: argparse.Namespace, cfg: Config) -> None:
    """Draw the subcommand `decay`."""
    backbone = our_backbone(args, cfg, RMT, 'only RMT has a decay')
    size = args.size or CLASSIFICATION_SIZE
    point = point_of(args, size)
    draw_decays(decays(backbone, *size, point), Scene(size, point=point), args.out)


def draw_attentions(args: argparse.Namespace, cfg: Config) -> None:
    """Draw the subcommand `attention`."""
    known = 'the attention of ResT and RMT can be drawn'
    backbone = our_backbone(args, cfg, PyramidBackbone, known)
    blocks = blocks_of(args, backbone)
    image = read_image(args.image, args.size)
    size = image.shape[:2]
    point = point_of(args, size)
    found = attention_maps(backbone, normalised(image, preprocessing(cfg)), blocks, point)
    maps = [
        (f'stage {stage + 1}, block {blocks[stage] + 1}', found[stage]) for stage in sorted(found)
    ]
    head = {'mean': None, 'all': -1}.get(args.head, args.head)
    head = int(head) - 1 if isinstance(head, str) else head
    draw_attention(maps, head, Scene(size, image, point), args.out)


def draw_fields(args: argparse.Namespace, cfg: Config) -> None:
    """Draw the subcommand `receptive-field`."""
    backbone = build_network(backbone_config(cfg), args.checkpoint)
    size = args.size or CLASSIFICATION_SIZE
    if args.image:
        size = read_image(args.image[0], args.size).shape[:2]  # the others are resized to it
        images = (normalised(read_image(path, size), preprocessing(cfg)) for path in args.image)
    else:
        generator = torch.Generator().manual_seed(0)
        images = (torch.randn(1, 3, *size, generator=generator) for _ in range(args.samples or 16))
    fields = receptive_fields(backbone, images)
    names = _names(getattr(backbone, 'out_indices', range(len(fields))), 'stage')
    draw_receptive_fields(list(zip(names, fields)), Scene(size), args.out)


def draw_pyramid(args: argparse.Namespace, cfg: Config) -> None:
    """Draw the subcommand `pca`."""
    if args.neck and cfg.model.get('neck') is None:
        raise UsageError(f'--neck: the model of {args.network} has none; leave it out')
    model = build_network(cfg if args.neck else backbone_config(cfg), args.checkpoint)
    image = read_image(args.image, args.size)
    with torch.no_grad():
        run_model = model.extract_feat if args.neck else model
        maps = run_model(normalised(image, preprocessing(cfg)))
    components = [principal_components(each[0]) for each in maps]
    indices = getattr(model, 'out_indices', range(len(maps)))
    names = _names(range(len(maps)), 'level') if args.neck else _names(indices, 'stage')
    draw_components(list(zip(names, components)), Scene(image.shape[:2], image), args.out)


def _names(indices: Any, word: str) -> List[str]:
    return [f'{word} {index + 1}' for index in indices]


DRAWING = {
    'decay': draw_decay,
    'attention': draw_attentions,
    'receptive-field': draw_fields,
    'pca': draw_pyramid,
}


def main() -> None:
    """Draw."""
    args = parse_args()
    cfg = network_config(args.network, args.cfg_options)
    if args.out is None:
        name = f'{Path(args.network).stem}_{args.command.replace("-", "_")}.png'
        args.out = Path('work_dirs', 'visualize', name)
    DRAWING[args.command](args, cfg)
    print(f'{args.out} is drawn')
