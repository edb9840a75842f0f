"""Evaluate pairs of config and checkpoint on the data at hand and write one table.

Every pair goes through tools/test.py in a process of its own. Its outcome is kept in the work dir
as soon as it is there, so that the same command, started again, goes on where it was stopped.
"""

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Tuple

import torch
from mmengine.config import Config
from rich.console import Console

import mmrest

from ..engine.config import dicts, load_config, type_name
from ..engine.errors import UsageError
from ..shipped import folder as configs_folder
from .command import Parser, folder

METAFILE = configs_folder() / 'metafile.yml'

METRICS = {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP', 'mIoU': 'mIoU'}
"""Name in the metrics of a test -> name in the metafile, where figures are percentages."""

DATA = {'mmdet': 'coco', 'mmseg': 'ade'}
"""Scope of a config -> the option with its data root."""


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'pairs', nargs='+', metavar='CONFIG=CHECKPOINT', help='what to evaluate, in this order'
    )
    parser.add_argument('--work-dir', type=folder, default=Path('work_dirs/benchmark_zoo'))
    parser.add_argument('--coco', metavar='DIR', help='data root of the detectors')
    parser.add_argument('--ade', metavar='DIR', help='data root of the segmentors')
    parser.add_argument(
        '--cfg-options', nargs='+', metavar='KEY=VALUE', help='handed on to tools/test.py'
    )
    args = parser.parse_args()
    for pair in args.pairs:
        config, sign, checkpoint = pair.partition('=')
        if not (sign and config and checkpoint):
            parser.error(f'{pair!r} is not of the form CONFIG=CHECKPOINT')
        for path in (config, checkpoint):
            if not Path(path).is_file():
                raise UsageError(f'{path} (of {pair}) is not a file; give existing paths')
    return args


class Results:
    """Outcomes by what they depend on, kept in a file after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: Dict[str, Dict[str, Any]] = {}
        if path.is_file():
            try:
                self.known = json.loads(path.read_text())
                times = [outcome['time'] for outcome in self.known.values()]
                fault = None if all(times) else 'a time is 0'
            except (ValueError, AttributeError, TypeError, KeyError) as error:
                fault = f'{type(error).__name__}: {error}'
            if fault is not None:
                raise UsageError(
                    f'{path} does not hold outcomes of this program ({fault}); remove it to '
                    'begin anew'
                )

    def keep(self, key: str, outcome: Dict[str, Any]) -> None:
        """Add one outcome; a file that is half written never takes the place of a whole one."""
        self.known[key] = outcome
        unfinished = self.path.with_suffix('.tmp')
        unfinished.write_text(json.dumps(self.known, indent=2))
        os.replace(unfinished, self.path)


def fingerprint(cfg: Config, checkpoint: str, arguments: List[str]) -> str:
    """What an outcome depends on.

    That is the config, the bytes of the checkpoint, the options, names, sizes and times of the
    files of the data, the device and the versions.
    """
    content = hashlib.sha256(cfg.pretty_text.encode())
    with open(checkpoint, 'rb') as file:
        for block in iter(lambda: file.read(2**20), b''):
            content.update(block)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    facts = [arguments, data_files(cfg), device, torch.__version__, mmrest.__version__]
    content.update(json.dumps(facts).encode())
    return content.hexdigest()


def expected_metrics(cfg: Config) -> List[str]:
    """Metrics that are 0 where a detector found nothing; CocoMetric then gives none."""
    return [
        f'coco/{metric}_mAP'
        for _, part in dicts(cfg.get('test_evaluator'), 'test_evaluator')
        if type_name(part) == 'CocoMetric'
        for metric in ([part['metric']] if isinstance(part['metric'], str) else part['metric'])
        if metric in ('bbox', 'segm')
    ]


def data_files(cfg: Config) -> List[Tuple[str, int, int]]:
    """Name, size and time of every file that the test of a config reads."""
    paths = set()
    for _, part in dicts(cfg.get('test_dataloader'), 'test_dataloader'):
        root = part.get('data_root') or ''
        prefixes = part.get('data_prefix') or {}
        paths.update(
            Path(root, name) for name in [part.get('ann_file'), *prefixes.values()] if name
        )
    found = []
    for path in sorted(paths):
        for file in sorted(path.rglob('*')) if path.is_dir() else [path]:
            if file.is_file():
                found.append((str(file), file.stat().st_size, file.stat().st_mtime_ns))
    return found


def evaluate(config: str, checkpoint: str, arguments: List[str], folder: Path) -> Dict[str, Any]:
    """Metrics, speed and memory as tools/test.py gives them.

    Args:
        config: config file.
        checkpoint: checkpoint file.
        arguments: further arguments of tools/test.py.
        folder: for the work dir of this attempt, which is one of its own: an earlier attempt may
            have been killed and its test not.

    Raises:
        UsageError: it failed; the message is its own last line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work_dir = Path(tempfile.mkdtemp(prefix='test_', dir=folder))
    command = [sys.executable, '-m', 'mmrest_cli', 'test', config, checkpoint, *arguments]
    with subprocess.Popen(
        [*command, '--work-dir', str(work_dir)], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, errors = process.communicate()
        except BaseException:
            process.terminate()
            raise
    written = list(work_dir.glob('*/*.json'))
    if process.returncode != 0 or len(written) != 1:
        last = (errors.strip().splitlines() or ['it left no metrics'])[-1]
        raise UsageError(last.partition('test.py: error: ')[2] or last)
    return json.loads(written[0].read_text())


class Stopped(BaseException):
    """The program was asked to end; no failure of a pair."""


def stop(*_: Any) -> NoReturn:
    """Handler of SIGINT and SIGTERM."""
    raise Stopped


def rows(outcomes: Dict[str, Dict[str, Any]], reported: Dict[str, Dict[str, Any]]) -> List[list]:
    """Header and rows of the table; figures that there are not stay "-"."""
    header = ['config', 'checkpoint']
    for title in METRICS.values():
        header += [title, f'{title}, reported']
    table = [[*header, 'batches/s', 'memory (MB)']]
    for pair, outcome in outcomes.items():
        config, _, checkpoint = pair.partition('=')
        name = Path(config).stem
        row = [name, checkpoint]
        for metric, title in METRICS.items():
            value = outcome.get(metric)
            percent = None if value is None else value * (1 if metric == 'mIoU' else 100)
            row.append('-' if percent is None else f'{percent:.1f}')
            row.append(str(reported.get(name, {}).get(title, '-')))
        memory = outcome.get('memory_mb')
        row += [f'{1 / outcome["time"]:.2f}', f'{memory:.0f}' if memory else '-']
        table.append(row)
    return table


def main() -> None:
    """Evaluate what is not known yet, and write."""
    args = parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    results = Results(args.work_dir / 'results.json')
    console = Console()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    outcomes, failures = {}, []
    try:
        for number, pair in enumerate(args.pairs, 1):
            console.print(f'[{number}/{len(args.pairs)}] {pair}', markup=False)
            try:
                outcomes[pair] = outcome_of(pair, args, results)
            except UsageError as error:
                failures.append(f'{pair}: {error}')
    except Stopped:
        failures.append('stopped; the same command goes on where it was')
    finally:
        if outcomes:
            write_table(args.work_dir / 'table.md', outcomes, console)
    if failures:
        raise UsageError('; '.join(failures))


def outcome_of(pair: str, args: argparse.Namespace, results: Results) -> Dict[str, Any]:
    """Outcome of a pair, from the results or by evaluating it.

    Raises:
        UsageError: the config cannot be read, or the evaluation failed.
    """
    config, _, checkpoint = pair.partition('=')
    cfg = load_config(config)
    option = DATA.get(cfg.get('default_scope'), '')
    root = getattr(args, option, None)
    arguments = []
    if root is not None:
        arguments = ['--data-root', os.path.abspath(root)]
        cfg = load_config(config, data_root=arguments[1])
    if args.cfg_options:
        arguments += ['--cfg-options', *args.cfg_options]
    key = fingerprint(cfg, checkpoint, arguments)
    if key not in results.known:
        folder = args.work_dir / f'{Path(config).stem}_{key[:8]}'
        try:
            outcome = evaluate(config, checkpoint, arguments, folder)
        except UsageError as error:
            raise UsageError(str(error).replace('--data-root', f'--{option}')) from error
        for name in expected_metrics(cfg):
            outcome.setdefault(name, 0.0)
        results.keep(key, outcome)
    return results.known[key]


def write_table(path: Path, outcomes: Dict[str, Dict[str, Any]], console: Console) -> None:
    """Write the table, and show it."""
    header, *body = rows(outcomes, reported_results())
    text = '\n'.join(f'| {" | ".join(row)} |' for row in [header, ['---'] * len(header), *body])
    path.write_text(f'{text}\n')
    console.print(text, soft_wrap=True, markup=False)
    console.print(f'The table is in {path}')


def reported_results() -> Dict[str, Dict[str, Any]]:
    """Name of a config -> metric -> what its paper reports, from the metafile."""
    found: Dict[str, Dict[str, Any]] = {}
    for model in Config.fromfile(METAFILE)['Models']:
        for result in model.get('Results', []):
            found.setdefault(model['Name'], {}).update(result['Metrics'])
    return found
