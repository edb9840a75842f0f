"""Plot the logs of runs, and write the report of a run."""

from dataclasses import replace
from pathlib import Path
from typing import List

from mmengine.device import get_device
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..checkpoint import check_writable
from ..engine.config import load_config
from ..engine.devices import usable_device
from ..errors import UsageError
from ..reporting.curves import SUFFIXES, default_keys, draw_curves, title_of
from ..reporting.logs import Log, read_log, write_csv
from ..reporting.work_dir import find_checkpoint, find_config
from .command import Parser, add_config_arguments, at_least, fraction, written_file


def main() -> None:
    """Write the report of a run: one HTML page with config, curves, metrics and predictions."""
    # Slower to import than all that curves need.
    from ..reporting.evaluation import evaluate
    from ..reporting.report import write_report

    parser = Parser(description=main.__doc__)
    add = parser.add_argument
    add('work_dir', type=Path, help='work dir of the run')
    add('--config', help='config file (default: the one in the work dir)')
    add('--checkpoint', help='checkpoint to evaluate (default: the best, or else the newest)')
    add('--no-eval', action='store_true', help='skip the evaluation')
    add(
        '--out', type=written_file('.html', '.htm'),
        help='output file (default: report.html in the work dir)',
    )  # fmt: skip
    add(
        '--num-pictures', type=at_least(0), default=4, metavar='N',
        help='show the N best predictions and the N worst (default: 4)',
    )  # fmt: skip
    add(
        '--score-thr', type=fraction, default=0.3,
        help='score threshold for visualizations and image scores (default: 0.3)',
    )  # fmt: skip
    add(
        '--device', type=usable_device, default=get_device(),
        help='such as cpu or cuda:1 (default: GPU if available)',
    )  # fmt: skip
    add_config_arguments(parser)
    args = parser.parse_args()
    if args.no_eval and args.checkpoint is not None:
        parser.error('--checkpoint has no effect with --no-eval; drop one of them')
    path = args.config or str(find_config(args.work_dir))
    cfg = load_config(path, args.cfg_options, args.data_root)
    log = read_log(args.work_dir)
    out = args.out or args.work_dir / 'report.html'
    check_writable(str(out.parent), '--out')
    evaluation = None
    if not args.no_eval:
        checkpoint = args.checkpoint or find_checkpoint(args.work_dir, cfg)
        evaluation = evaluate(cfg, checkpoint, args.device, args.score_thr)
    write_report(args.work_dir, cfg, log, out, evaluation, args.num_pictures)
    print(f'report saved to {out} ({out.stat().st_size / 2**20:.1f} MB); open it in a browser')


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
        replace(log, name=f'{log.name} ({number})') if names.count(log.name) > 1 else log
        for number, log in enumerate(logs, 1)
    ]


def summary(logs: List[Log]) -> Table:
    """Return a table with the last iteration and loss of each run, and its best metrics."""
    table = Table(title='best metrics, last iteration and loss', title_justify='left')
    for name in ('', *(log.name for log in logs)):
        table.add_column(escape(name), justify='right' if name else 'left', overflow='fold')
    for key, digits in (('iter', 0), ('loss', 4)):
        last = [log.train[-1].get(key) if log.train else None for log in logs]
        table.add_row(key, *('-' if value is None else f'{value:.{digits}f}' for value in last))
    metrics = dict.fromkeys(key for log in logs for key in default_keys(log) if key in log.metrics)
    for key in metrics:
        best = [log.best(key) if key in log.curves else None for log in logs]
        cells = ('-' if point is None else f'{point[1]:.4g}' for point in best)
        table.add_row(escape(title_of(key)), *cells)
    return table


def curves() -> None:
    """Plot the logs of one or more runs, and save them as a table."""
    parser = Parser(description=curves.__doc__)
    add = parser.add_argument
    add('runs', nargs='+', type=Path, metavar='RUN', help='work dir of a run, or its scalars.json')
    add(
        '--keys', nargs='+', metavar='KEY',
        help='keys of the log to plot, such as loss bbox_mAP (default: losses, learning rate, '
        'metrics, throughput and memory)',
    )  # fmt: skip
    add('--legend', nargs='+', metavar='NAME', help='names of the runs (default: their folders)')
    add('--title', default='', help='figure title')
    add(
        '--out', nargs='+', type=written_file(*SUFFIXES, '.csv'), metavar='FILE',
        default=[Path('curves.png'), Path('curves.csv')],
        help=f'{", ".join(SUFFIXES)} figures and .csv tables (default: curves.png curves.csv)',
    )  # fmt: skip
    args = parser.parse_args()
    if args.legend is not None and len(args.legend) != len(args.runs):
        parser.error(f'--legend names {len(args.legend)} run(s), but there are {len(args.runs)}')
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
    missing = {k for log in logs for k in default_keys(log)}.difference(keys)
    if missing and args.keys is None:
        names = ', '.join(sorted(missing))
        console.print(f'not plotted, because not every run has logged it: {names}', markup=False)
    console.print(f'saved to {", ".join(map(str, args.out))}')
