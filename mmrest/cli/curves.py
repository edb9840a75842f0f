"""Plot the logs of one or more runs, and save them as a table."""

import argparse
from pathlib import Path
from typing import List

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import UsageError
from ..reporting.curves import SUFFIXES, default_keys, draw_curves, title_of
from ..reporting.logs import Log, read_log, write_csv
from .command import Parser, written_file


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        'runs', nargs='+', type=Path, metavar='RUN', help='work dir of a run, or its scalars.json'
    )
    parser.add_argument(
        '--keys',
        nargs='+',
        metavar='KEY',
        help='keys of the log to plot, such as loss bbox_mAP (default: losses, learning rate, '
        'metrics, throughput and memory)',
    )
    parser.add_argument(
        '--legend', nargs='+', metavar='NAME', help='names of the runs (default: their folders)'
    )
    parser.add_argument('--title', help='figure title')
    parser.add_argument(
        '--out',
        nargs='+',
        type=written_file(*SUFFIXES, '.csv'),
        default=[Path('curves.png'), Path('curves.csv')],
        metavar='FILE',
        help=f'output files: figures ({", ".join(SUFFIXES)}) and tables (.csv) (default: '
        'curves.png curves.csv)',
    )
    args = parser.parse_args()
    if args.legend is not None and len(args.legend) != len(args.runs):
        parser.error(f'--legend names {len(args.legend)} run(s), but there are {len(args.runs)}')
    return args


def common_keys(logs: List[Log]) -> List[str]:
    """Return the default keys that all runs have logged."""
    keys = [key for key in default_keys(logs[0]) if all(key in log.curves for log in logs)]
    if not keys:
        names = ', '.join(log.name for log in logs)
        raise UsageError(f'{names} have no logged key in common; plot them separately')
    return keys


def different_names(logs: List[Log]) -> List[Log]:
    """Return logs with unique names; equal names are numbered."""
    names = [log.name for log in logs]
    return [
        log._replace(name=f'{log.name} ({number})') if names.count(log.name) > 1 else log
        for number, log in enumerate(logs, 1)
    ]


def summary(logs: List[Log]) -> Table:
    """Return a table with the last iteration and loss of each run, and its best metrics."""
    table = Table(title='best metrics, last iteration and loss', title_justify='left')
    metrics = dict.fromkeys(key for log in logs for key in default_keys(log) if key in log.metrics)
    for name in ('run', 'iters', 'loss', 's/iter', *map(title_of, metrics)):
        table.add_column(name, justify='left' if name == 'run' else 'right')
    for log in logs:
        last = log.train[-1] if log.train else {}
        times = [line['time'] for line in log.train if 'time' in line]
        cells = [
            str(last.get('iter', '-')),
            f'{last["loss"]:.4f}' if 'loss' in last else '-',
            f'{sum(times) / len(times):.3f}' if times else '-',
        ]
        for key in metrics:
            best = log.best(key) if key in log.curves else None
            cells.append('-' if best is None else f'{best[1]:.4g}')
        table.add_row(escape(log.name), *cells)
    return table


def main() -> None:
    """Read the logs, plot them and save tables."""
    args = parse_args()
    names = args.legend or [''] * len(args.runs)
    logs = different_names([read_log(path, name) for path, name in zip(args.runs, names)])
    keys = common_keys(logs) if args.keys is None else args.keys
    for log in logs:
        for key in keys:
            log.full_name(key)  # before anything is written
    for path in args.out:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.csv':
            write_csv(logs, path, keys)
        else:
            draw_curves(logs, path, keys, args.title)
    console = Console()
    console.print(summary(logs))
    console.print(f'saved to {", ".join(map(str, args.out))}')
