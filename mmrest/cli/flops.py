"""Count the parameters and MACs of a network by part, attention matmuls included."""

import json
from typing import Any, Dict, List

from rich.console import Console
from rich.table import Table

from ..analysis.complexity import Part, count_parts
from ..analysis.networks import backbone_config, network_config, on_meta, usual_size
from ..errors import explained
from .command import Parser, add_cfg_options, add_network, written_file


def counts(parts: List[Part]) -> Dict[str, Any]:
    """Return the counts as a dict; totals exclude parts that are not counted."""
    entries = [part._asdict() for part in parts]
    totals = {key: sum(entry[key] for entry in entries) for key in Part._fields[1:4]}
    for entry in entries:
        if not entry.pop('counted'):
            entry.update(macs=None, attention=None)  # not 0, so that they are not added up
    not_counted = [part.name for part in parts if not part.counted]
    return dict(totals, not_counted=not_counted, parts=entries)


def table(counted: Dict[str, Any]) -> Table:
    rows = Table(show_footer=True)
    rows.add_column('part', footer='total without -' if counted['not_counted'] else 'total')
    rows.add_column('parameters', footer=f'{counted["parameters"]:,}', justify='right')
    for key, title in (('macs', 'MACs (G)'), ('attention', 'of which attention (G)')):
        rows.add_column(title, footer=f'{counted[key] / 1e9:.3f}', justify='right')
    for part in counted['parts']:
        numbers = part['macs'], part['attention']
        macs = ['-' if number is None else f'{number / 1e9:.3f}' for number in numbers]
        rows.add_row(part['name'], f'{part["parameters"]:,}', *macs)
    return rows


def main() -> None:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_network(parser, '224; detectors: 800 1280; segmentors: size of data_preprocessor, or 512')
    add('--backbone-only', action='store_true', help='drop neck and heads')
    add('--json', type=written_file('.json'), metavar='FILE', help='also save the counts as JSON')
    add_cfg_options(parser, 'model.backbone.arch=b')
    args = parser.parse_args()
    cfg = network_config(args.network, args.cfg_options)
    size = args.shape or usual_size(cfg)
    model = on_meta(backbone_config(cfg) if args.backbone_only else cfg)
    fault = f'{type(model).__name__} of {args.network} cannot be counted at {size[0]} x {size[1]}'
    remedy = 'use another --shape' + ' or --backbone-only' * (not args.backbone_only)
    with explained(fault, remedy):  # such as a backbone that takes other inputs
        counted = counts(count_parts(model, *size))
    print(f'{args.network}, one image of {size[0]} x {size[1]}')
    Console().print(table(counted))
    print('One MAC is two FLOPs.')
    if counted['not_counted']:
        print('Not counted in the total:', ', '.join(counted['not_counted']))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        content = dict(network=args.network, shape=size, **counted)
        args.json.write_text(json.dumps(content, indent=2) + '\n')
        print(f'saved to {args.json}')
