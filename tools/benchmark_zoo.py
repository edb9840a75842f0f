"""Evaluate pairs of config and checkpoint on the data at hand and write one table.

Every pair goes through tools/test.py in a process of its own. Its outcome is kept in the work dir
as soon as it is there, so that the same command, started again, goes on where it was stopped.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

from mmengine.config import Config
from rich.console import Console

from mmrest.engine.command import Parser, folder, run
from mmrest.engine.config import load_config
from mmrest.engine.errors import UsageError

TOOLS = Path(__file__).resolve().parent
METAFILE = TOOLS.parent / 'configs' / 'metafile.yml'

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
            except ValueError as error:
                raise UsageError(
                    f'{path} is no JSON ({error}); remove it to begin anew'
                ) from error

    def keep(self, key: str, outcome: Dict[str, Any]) -> None:
        """Add one outcome; a file that is half written never takes the place of a whole one."""
        self.known[key] = outcome
        unfinished = self.path.with_suffix('.tmp')
        unfinished.write_text(json.dumps(self.known, indent=2))
        os.replace(unfinished, self.path)


def fingerprint(cfg: Config, checkpoint: str, arguments: List[str]) -> str:
    """What an outcome depends on: the config, the bytes of the checkpoint, data and options."""
    content = hashlib.sha256(cfg.pretty_text.encode())
    with open(checkpoint, 'rb') as file:
        for block in iter(lambda: file.read(2**20), b''):
            content.update(block)
    content.update(json.dumps(arguments).encode())
    return content.hexdigest()


def evaluate(config: str, checkpoint: str, arguments: List[str], work_dir: Path) -> Dict[str, Any]:
    """Metrics, speed and memory as tools/test.py gives them.

    Raises:
        UsageError: it failed; the message is its own last line.
    """
    command = [sys.executable, str(TOOLS / 'test.py'), config, checkpoint, *arguments]
    before = set(work_dir.glob('*/*.json'))
    done = subprocess.run(
        [*command, '--work-dir', str(work_dir)], stderr=subprocess.PIPE, text=True
    )
    written = set(work_dir.glob('*/*.json')) - before
    if done.returncode != 0 or len(written) != 1:
        last = (done.stderr.strip().splitlines() or ['no metrics'])[-1]
        raise UsageError(f'{config} with {checkpoint}: {last}')
    return json.loads(written.pop().read_text())


def rows(outcomes: Dict[str, Dict[str, Any]], reported: Dict[str, Dict[str, Any]]) -> List[list]:
    """Header and rows of the table; figures that there are not stay "-"."""
    header = ['config']
    for title in METRICS.values():
        header += [title, f'{title}, reported']
    table = [[*header, 'batches/s', 'memory (MB)']]
    for pair, outcome in outcomes.items():
        name = Path(pair.partition('=')[0]).stem
        row = [name]
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
    outcomes, failures = {}, []
    for number, pair in enumerate(args.pairs, 1):
        config, _, checkpoint = pair.partition('=')
        cfg = load_config(config)
        root = getattr(args, DATA.get(cfg.get('default_scope'), ''), None)
        arguments = [] if root is None else ['--data-root', os.path.abspath(root)]
        if args.cfg_options:
            arguments += ['--cfg-options', *args.cfg_options]
        key = fingerprint(cfg, checkpoint, arguments)
        console.print(f'[{number}/{len(args.pairs)}] {pair}', markup=False)
        if key not in results.known:
            try:
                work_dir = args.work_dir / f'{Path(config).stem}_{key[:8]}'
                results.keep(key, evaluate(config, checkpoint, arguments, work_dir))
            except UsageError as error:
                failures.append(str(error))
                continue
        outcomes[pair] = results.known[key]
    header, *body = rows(outcomes, reported_results())
    text = '\n'.join(f'| {" | ".join(row)} |' for row in [header, ['---'] * len(header), *body])
    (args.work_dir / 'table.md').write_text(f'{text}\n')
    console.print(text, soft_wrap=True, markup=False)
    console.print(f'The table is in {args.work_dir}/table.md')
    if failures:
        raise UsageError('; '.join(failures))


def reported_results() -> Dict[str, Dict[str, Any]]:
    """Name of a config -> metric -> what its paper reports, from the metafile."""
    found: Dict[str, Dict[str, Any]] = {}
    for model in Config.fromfile(METAFILE)['Models']:
        for result in model.get('Results', []):
            found.setdefault(model['Name'], {}).update(result['Metrics'])
    return found


if __name__ == '__main__':
    run(main)
