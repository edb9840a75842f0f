"""Benchmark backbones and attention (time, memory), or checkpoints (metrics)."""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch

from ..analysis.measure import ATTENTIONS, Job, machine, measured
from ..analysis.networks import BACKBONES, PEERS
from ..engine.config import load_config, package_of
from ..engine.signals import end_with
from ..errors import UsageError, explained
from ..ops import BACKENDS
from ..reporting.logs import metric_text, well_known
from ..shipped import models, reported
from .command import Parser, at_least, folder, markdown_table

NETWORKS = (*BACKBONES, *ATTENTIONS)

LARGEST_MAPS = 2**28  # elements of the largest attention map that the reference is measured with

REPORTED_RATES = {
    'rmt_t': 1650, 'rmt_s': 876, 'rmt_b': 457, 'rmt_l': 326, 'rmt_swin_t': 1192,
    'rmt_swin_s': 722, 'swin_t': 1704, 'swin_s': 1006,
}  # fmt: skip
"""Images per second at 224 x 224 in Table 11 of RMT, which does not name the GPU."""

METRICS = {
    'coco/bbox_mAP': ('box AP', 100),
    'coco/segm_mAP': ('mask AP', 100),
    'mIoU': ('mIoU', 1),
    'accuracy/top1': ('top-1', 1),
}
"""Metric of a test -> its name in the metafile, and the factor that makes it a percentage."""

DATA = {'mmdet': 'coco', 'mmseg': 'ade', 'mmpretrain': 'imagenet'}
"""Scope of a config -> option for its data root."""


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    networks = commands.add_parser('networks', help='time and memory of backbones and attention')
    add = networks.add_argument
    add(
        'networks', nargs='*', default=['rest_small', 'rmt_s'], metavar='NETWORK',
        help=f'any of {", ".join(NETWORKS)} (default: rest_small rmt_s)',
    )  # fmt: skip
    add(
        '--backends', nargs='+', choices=BACKENDS,
        help='attention backends (default: torch reference, on a GPU triton too)',
    )  # fmt: skip
    add(
        '--sizes', nargs='+', type=size, default=[(800, 1344)], metavar='HxW',
        help='image sizes (default: 800x1344)',
    )  # fmt: skip
    add('--batch', type=at_least(1), default=1, help='number of images (default: 1)')
    add('--train', action='store_true', help='forward and backward')
    add('--with-cp', action='store_true', help='recompute blocks in the backward pass')
    add('--dtype', default='float32', choices=['float32', 'float16', 'bfloat16'])
    add('--device', default='cpu', choices=['cpu', 'cuda'])
    add('--compile', action='store_true', help='also measure torch.compile')
    add('--memory', action='store_true', help='also measure memory, which takes longer')
    add('--repeats', type=at_least(1), default=5, help='steps per network (default: 5)')
    add('--threads', type=at_least(1), help='number of CPU threads (default: PyTorch default)')
    add('--work-dir', type=folder, default=Path('work_dirs/benchmark'))
    networks.set_defaults(run=benchmark_networks)
    checkpoints = commands.add_parser('checkpoints', help='metrics of checkpoints in one table')
    add = checkpoints.add_argument
    add('pairs', nargs='+', type=pair, metavar='CONFIG=CHECKPOINT', help='checkpoints to test')
    for option in DATA.values():
        add(f'--{option}', metavar='DIR', help=f'data root for configs of {option}')
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='see mmrest test')
    add(
        '--work-dir', type=folder, default=Path('work_dirs/benchmark_checkpoints'),
        help='folder for results, which are reused; change it if a config or data has changed',
    )  # fmt: skip
    checkpoints.set_defaults(run=benchmark_checkpoints)
    args = parser.parse_args()
    if args.command == 'networks':
        unknown = [name for name in args.networks if name not in NETWORKS]
        if unknown:
            parser.error(f'unknown network {unknown[0]!r}; choose from {", ".join(NETWORKS)}')
        if args.with_cp and not args.train:
            parser.error('--with-cp needs --train')
        if args.device == 'cuda' and not torch.cuda.is_available():
            parser.error('--device cuda: no GPU found; use --device cpu')
        if args.backends is None:
            args.backends = BACKENDS if args.device == 'cuda' else ['torch', 'reference']
    return args


def size(text: str) -> Tuple[int, int]:
    """Parse an argument such as 800x1344."""
    height, sign, width = text.partition('x')
    if not (sign and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form HEIGHTxWIDTH')
    return int(height), int(width)


def pair(text: str) -> Tuple[str, str]:
    """Parse an argument such as rmt_s.py=rmt_s.pth."""
    config, _, checkpoint = text.partition('=')
    if not config or not checkpoint:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form CONFIG=CHECKPOINT')
    return config, checkpoint


def jobs_of(args: argparse.Namespace, image_size: Tuple[int, int]) -> List[Job]:
    jobs = []
    options = dict(batch=args.batch, train=args.train, dtype=args.dtype, device=args.device)
    for name in dict.fromkeys(args.networks):
        attention = ATTENTIONS.get(name)
        large = attention and attention.map_elements(image_size) * args.batch > LARGEST_MAPS
        options.update(with_cp=args.with_cp and not attention)
        for backend in [None] if name in PEERS else args.backends:
            if not (backend == 'reference' and large):
                for compiled in [False, True] if args.compile else [False]:
                    jobs.append(Job(name, backend, image_size, compiled=compiled, **options))
    return jobs


def table(entries: List[Dict[str, Any]]) -> str:
    """Return the entries as a Markdown table, with the speed-up over the reference."""
    keys = ('network', 'size', 'backend', 'compiled')
    medians = {tuple(entry[key] for key in keys): entry['median'] for entry in entries}
    rows = []
    for entry in entries:
        reference = medians.get((entry['network'], entry['size'], 'reference', False))
        is_reported = not entry['train'] and tuple(entry['size']) == (224, 224)
        rate = REPORTED_RATES.get(entry['network']) if is_reported else None
        rows.append({
            'size': 'x'.join(map(str, entry['size'])),
            'network': entry['name'],
            'median (s)': f'{entry["median"]:.4f}',
            'range (s)': f'{min(entry["seconds"]):.4f} - {max(entry["seconds"]):.4f}',
            'speed-up over reference': f'{reference / entry["median"]:.2f}' if reference else '-',
            'images/s': f'{entry["batch"] / entry["median"]:.1f}',
            'images/s, RMT Table 11': str(rate or '-'),
            'peak memory (MB)': f'{entry["peak"]:.0f}' if entry.get('peak') else '-',
            'saved for backward (MB)': f'{entry["saved"]:.0f}' if entry.get('saved') else '-',
            'kernels on the GPU (s)': f'{entry["gpu"]:.4f}' if entry.get('gpu') else '-',
        })  # fmt: skip
    return markdown_table(rows[0], map(dict.values, rows))


def benchmark_networks(args: argparse.Namespace) -> None:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    jobs_by_size = {image_size: jobs_of(args, image_size) for image_size in args.sizes}
    if not any(jobs_by_size.values()):
        raise UsageError(
            '--backends reference: the attention maps are too large; lower --sizes or --batch'
        )
    args.work_dir.mkdir(parents=True, exist_ok=True)
    entries = []
    for image_size, jobs in jobs_by_size.items():
        names = ', '.join(job.name for job in jobs)
        print(f'{"x".join(map(str, image_size))}: {names}', flush=True)
        with explained('these networks cannot be measured', 'change size, dtype or backend'):
            results = measured(jobs, args.repeats, args.memory)
        for job in jobs:
            median = statistics.median(results[job.name]['seconds'])
            entries.append(dict(job._asdict(), name=job.name, median=median, **results[job.name]))
    step = 'forward and backward' if args.train else 'forward'
    heading = f'{step}, batch {args.batch}, {args.dtype}, {machine(args.device)}'
    content = json.dumps(dict(machine=machine(args.device), entries=entries), indent=2)
    (args.work_dir / 'benchmark.json').write_text(content)
    save(f'{heading}\n\n{table(entries)}', args.work_dir / 'benchmark.md')


def save(text: str, path: Path) -> None:
    path.write_text(f'{text}\n', encoding='utf-8')
    print(f'{text}\nsaved to {path}')


def benchmark_checkpoints(args: argparse.Namespace) -> None:
    roots = []
    for config, checkpoint in args.pairs:
        package = package_of(load_config(config))
        roots.append(getattr(args, DATA.get(package, ''), None))
        if not Path(checkpoint).is_file():
            raise UsageError(f'checkpoint {checkpoint} not found')
    published = {model['Name']: reported(model) for model in models()}
    rows, failed = [], []
    args.work_dir.mkdir(parents=True, exist_ok=True)
    for (config, checkpoint), root in zip(args.pairs, roots):
        options = ['--data-root', root] if root else []
        options += ['--cfg-options', *args.cfg_options] if args.cfg_options else []
        metrics = tested(config, checkpoint, options, args.work_dir)
        if metrics is None:
            failed.append(f'{config}={checkpoint}')
            continue
        row = {'config': Path(config).stem, 'checkpoint': checkpoint}
        known = [key for key in METRICS if key in metrics]
        for name, factor, value in [(*METRICS[key], metrics[key]) for key in known]:
            row[name] = f'{value * factor:.1f}' if value >= 0 else '-'  # COCO without objects
            row[f'{name}, reported'] = str(published.get(row['config'], {}).get(name, '-'))
        took, memory_mb, _ = (metrics.pop(key, None) for key in ('time', 'memory_mb', 'data_time'))
        others = [key for key, value in metrics.items() if isinstance(value, (int, float))]
        if not known:
            row.update((key, metric_text(metrics[key], key)) for key in well_known(others))
        row['batches/s'] = f'{1 / took:.2f}' if took else '-'
        row['memory (MB)'] = f'{memory_mb:.0f}' if memory_mb else '-'
        rows.append(row)
    last = 'batches/s', 'memory (MB)'
    columns = sorted(dict.fromkeys(chain(*rows)), key=lambda name: name in last)
    if rows:
        text = markdown_table(columns, ([row.get(name, '-') for name in columns] for row in rows))
        save(text, args.work_dir / 'table.md')
    if failed:
        raise UsageError(f'{len(failed)} of {len(args.pairs)} tests failed: {", ".join(failed)}')


def tested(
    config: str, checkpoint: str, options: List[str], folder: Path
) -> Optional[Dict[str, Any]]:
    """Return the metrics of `mmrest test`, run if `folder` has none; None if it has failed."""
    request = ' '.join([f'{config}={checkpoint}', *options])  # each gets a folder of its own
    digest = hashlib.sha256(request.encode()).hexdigest()[:8]
    name = f'{Path(config).stem}_{Path(checkpoint).stem}_{digest}'

    def saved() -> List[Path]:
        # Not older than the checkpoint, the newest last.
        changed = Path(checkpoint).stat().st_mtime
        paths = (folder / name).glob('*/*.json')
        return sorted(path for path in paths if path.stat().st_mtime >= changed)

    if not saved():
        command = [sys.executable, '-m', 'mmrest_cli', 'test', config, checkpoint, *options]
        command += ['--work-dir', str(folder / name)]
        begin = partial(end_with, os.getpid()) if os.name == 'posix' else None
        if subprocess.run(command, preexec_fn=begin).returncode:
            return None
    return json.loads(saved()[-1].read_text())


def main() -> None:
    args = parse_args()
    args.run(args)
