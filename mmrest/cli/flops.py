"""Count parameters and multiply-adds of a network, stage by stage, attention included."""

import argparse
import json
from typing import Any, Dict, List, Tuple

from rich.console import Console
from rich.table import Table

from ..apis.complexity import Part, count_parts
from ..apis.networks import (
    OURS,
    PEERS,
    backbone_config,
    network_config,
    on_meta,
    usual_size,
)
from ..engine.config import first_line
from ..engine.errors import UsageError
from .command import (
    Parser,
    add_cfg_options,
    add_shape_argument,
    written_file,
)


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        'network', metavar='CONFIG', help=f'config file, or one of {", ".join([*OURS, *PEERS])}'
    )
    add_shape_argument(
        parser,
        '--shape',
        'of the image, one number for a square (default: 224 224 for a classifier or a backbone '
        'alone, 800 1280 for a detector, for a segmentor what its data_preprocessor says, or '
        '512 512)',
    )
    parser.add_argument(
        '--backbone-only', action='store_true', help='leave out neck and heads of a config'
    )
    parser.add_argument(
        '--json', type=written_file('.json'), metavar='FILE', help='write the figures to it too'
    )
    add_cfg_options(parser, 'model.backbone.arch=b')
    return parser.parse_args()


def measure(args: argparse.Namespace) -> Tuple[List[Part], Tuple[int, int]]:
    """Parts of the network, and the size that they are counted at."""
    cfg = network_config(args.network, args.cfg_options)
    size = args.shape or usual_size(cfg)
    model = on_meta(backbone_config(cfg) if args.backbone_only else cfg)
    try:
        return count_parts(model, *size), size
    except Exception as error:  # a head is called in a way that it does not know
        raise UsageError(
            f'{type(model).__name__} of {args.network} cannot be counted at {size[0]} x {size[1]}:'
            f' {first_line(error)}; --backbone-only leaves out neck and heads'
        ) from error


def total(parts: List[Part]) -> Part:
    """The sums, of multiply-adds without the parts that are not counted."""
    sums = (sum(getattr(p, key) for p in parts) for key in ('parameters', 'macs', 'attention'))
    return Part('total', *sums, counted=not uncounted(parts))


def uncounted(parts: List[Part]) -> List[str]:
    """Names of the parts whose multiply-adds are not known."""
    return [part.name for part in parts if not part.counted]


def table(parts: List[Part]) -> Table:
    """The figures for people."""
    rows = Table(show_footer=True)
    whole = total(parts)
    rows.add_column('part', footer='total' if whole.counted else 'total without -')
    rows.add_column('parameters', footer=f'{whole.parameters:,}', justify='right')
    for name, value in (
        ('multiply-adds (G)', whole.macs),
        ('of these attention (G)', whole.attention),
    ):
        rows.add_column(name, footer=f'{value / 1e9:.3f}', justify='right')
    for part in parts:
        counts = [f'{value / 1e9:.3f}' for value in (part.macs, part.attention)]
        rows.add_row(part.name, f'{part.parameters:,}', *(counts if part.counted else '--'))
    return rows


def content(parts: List[Part], network: str, size: Tuple[int, int]) -> Dict[str, Any]:
    """The figures for programs."""
    sums = figures(total(parts))
    del sums['name']
    of_parts = [figures(part) if part.counted else unknown(part) for part in parts]
    return dict(network=network, shape=size, **sums, not_counted=uncounted(parts), parts=of_parts)


def figures(part: Part) -> Dict[str, Any]:
    """Those of a part."""
    found = part._asdict()
    del found['counted']
    return found


def unknown(part: Part) -> Dict[str, Any]:
    """Those of a part that is not counted, which nobody can add up by mistake."""
    return dict(figures(part), macs=None, attention=None)


def main() -> None:
    """Count and show."""
    args = parse_args()
    parts, size = measure(args)
    title = f'{args.network}, one image of {size[0]} x {size[1]}'
    console = Console()
    console.print(title, soft_wrap=True, markup=False, highlight=False)
    console.print(table(parts))
    console.print('A multiply-add is two floating point operations.')
    if uncounted(parts):
        names = ', '.join(uncounted(parts))
        console.print(
            f'Not counted, and missing in the total: {names}; it is not known how to run that.',
            soft_wrap=True,
        )
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content(parts, args.network, size), indent=2) + '\n')
        console.print(f'The figures are in {args.json}')
