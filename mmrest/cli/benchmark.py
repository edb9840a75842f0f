"""Measure time and memory of backbones: ours, their plain form and mmdet's of like size."""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, Dict, List

import matplotlib
import torch
from rich.console import Console

from ..apis.complexity import count
from ..apis.measure import OURS, PEERS, Job, build, machine, matrix_rates, memory, seconds
from ..engine.errors import UsageError
from ..ops import BACKENDS
from .command import Parser, at_least, folder

matplotlib.use('Agg')  # files only, with or without a screen
from matplotlib import pyplot as plt


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        'networks', nargs='*', default=['rest_small', 'rmt_s'], metavar='NETWORK',
        help=f'from {", ".join([*OURS, *PEERS])} (default: rest_small rmt_s)',
    )  # fmt: skip
    parser.add_argument(
        '--backends', nargs='+', choices=BACKENDS,
        help='of the attention of our networks; reference is the plain form '
        '(default: torch reference, on a GPU triton too)',
    )  # fmt: skip
    parser.add_argument(
        '--sizes', nargs='+', type=size, default=[(800, 1344)], metavar='HxW',
        help='of the images (default: 800x1344)',
    )  # fmt: skip
    parser.add_argument('--batch', type=at_least(1), default=1)
    parser.add_argument('--train', action='store_true', help='forward and backward')
    parser.add_argument('--with-cp', action='store_true', help='recompute blocks in the backward')
    parser.add_argument('--dtype', default='float32', choices=['float32', 'float16', 'bfloat16'])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--compile', action='store_true', help='measure torch.compile too')
    parser.add_argument(
        '--memory', action='store_true', help='measure memory too, which takes longer'
    )
    parser.add_argument('--repeats', type=at_least(1), default=5)
    parser.add_argument('--threads', type=at_least(1), help='of the CPU (default: torch decides)')
    parser.add_argument('--work-dir', type=folder, default=Path('work_dirs/benchmark'))
    args = parser.parse_args()
    unknown = set(args.networks) - {*OURS, *PEERS}
    if unknown:
        parser.error(f'no network {sorted(unknown)[0]!r}; choose from {[*OURS, *PEERS]}')
    if args.with_cp and not args.train:
        parser.error('--with-cp is for --train, which is not given')
    if args.backends is None:
        args.backends = BACKENDS if args.device == 'cuda' else ['torch', 'reference']
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UsageError('--device cuda: torch finds no GPU; leave it out')
    return args


def size(text: str) -> tuple:
    """Type of an argument such as 800x1344."""
    height, sign, width = text.partition('x')
    if not (sign and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form HEIGHTxWIDTH')
    return int(height), int(width)


def jobs_of(args: argparse.Namespace, image_size: tuple) -> List[Job]:
    """What is measured at one size, in this order."""
    jobs = []
    for network in args.networks:
        for backend in args.backends if network in OURS else [None]:
            for compiled in [False, True] if args.compile else [False]:
                jobs.append(
                    Job(
                        network, backend, image_size, args.batch, args.train, args.with_cp,
                        args.dtype, args.device, compiled,
                    )
                )  # fmt: skip
    return jobs


def multiply_adds(job: Job) -> int:
    """Of a forward pass of one image."""
    network = build(job._replace(compiled=False)).to('meta')
    return count(network, *job.size).macs


def measure(args: argparse.Namespace, rate: float, console: Console) -> List[Dict[str, Any]]:
    """Everything that was asked for: one dict a job.

    Args:
        args: of the command line.
        rate: multiply-adds a second that the machine can reach.
        console: where the progress is told.
    """
    found = []
    for image_size in args.sizes:
        jobs = jobs_of(args, image_size)
        console.print(f'{"x".join(map(str, image_size))}: {", ".join(job.name for job in jobs)}')
        times = seconds(jobs, args.repeats)
        for job in jobs:
            median = statistics.median(times[job.name])
            # A backward pass has two products for each of the forward pass.
            products = multiply_adds(job) * job.batch * (3 if job.train else 1)
            entry = dict(
                job._asdict(), name=job.name, seconds=times[job.name], median=median,
                share=products / median / rate,
            )  # fmt: skip
            if args.memory:
                entry.update(memory(job)._asdict())
            found.append(entry)
    return found


def table(entries: List[Dict[str, Any]]) -> str:
    """The figures as a table of Markdown; ratios are to the plain form of the same network."""
    lines = [
        '| size | network | median (s) | spread (s) | times as fast as its plain form | '
        'share of the matrix rate | peak (MB) | kept for backward (MB) |',
        '|' + ' --- |' * 8,
    ]
    for entry in entries:
        plain = [
            other for other in entries
            if (other['network'], other['size'], other['compiled'])
            == (entry['network'], entry['size'], False) and other['backend'] == 'reference'
        ]  # fmt: skip
        ratio = f'{plain[0]["median"] / entry["median"]:.2f}' if plain else '-'
        cells = [
            'x'.join(map(str, entry['size'])),
            entry['name'],
            f'{entry["median"]:.3f}',
            f'{min(entry["seconds"]):.3f} - {max(entry["seconds"]):.3f}',
            ratio,
            f'{entry["share"]:.0%}',
            f'{entry["peak"]:.0f}' if 'peak' in entry else '-',
            f'{entry["kept"]:.0f}' if entry.get('kept') else '-',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def draw(entries: List[Dict[str, Any]], path: Path) -> None:
    """Bars of the medians with their spread, a panel for each size."""
    sizes = list(dict.fromkeys(entry['size'] for entry in entries))
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(6 * len(sizes), 1 + 0.35 * len(entries) / len(sizes)),
        squeeze=False, layout='constrained',
    )  # fmt: skip
    for axis, image_size in zip(axes[0], sizes):
        shown = [entry for entry in entries if entry['size'] == image_size]
        medians = [entry['median'] for entry in shown]
        spread = [
            [entry['median'] - min(entry['seconds']) for entry in shown],
            [max(entry['seconds']) - entry['median'] for entry in shown],
        ]
        axis.barh([entry['name'] for entry in shown], medians, xerr=spread, capsize=3)
        axis.invert_yaxis()
        axis.set_xlabel('seconds a step')
        axis.set_title('x'.join(map(str, image_size)))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure and write."""
    args = parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    console = Console()
    rates = matrix_rates(args.device, args.dtype)
    entries = measure(args, max(rates.values()), console)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    (args.work_dir / 'benchmark.json').write_text(
        json.dumps(dict(machine=machine(args.device), rates=rates, entries=entries), indent=2)
    )
    step = 'forward and backward' if args.train else 'forward'
    heading = f'{step}, batch {args.batch}, {args.dtype}, {machine(args.device)}'
    reached = ', '.join(f'{rate / 1e9:.0f} ({name})' for name, rate in rates.items())
    text = f'{heading}; GMAC/s: {reached}\n\n{table(entries)}\n'
    (args.work_dir / 'benchmark.md').write_text(text)
    draw(entries, args.work_dir / 'benchmark.png')
    console.print(text, soft_wrap=True, markup=False)
    console.print(f'benchmark.json, .md and .png are in {args.work_dir}')
