"""Logs of runs, in the format of mmengine's LocalVisBackend."""

import csv
import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from ..errors import UsageError

PLACES = ('step', 'iter', 'epoch')  # keys of a line that locate it in the run
# mmpretrain's metrics; the support is a number of images.
_CLASSIFICATION = r'(accuracy|single-label|multi-label|retrieval)/(?!support).*'
# Also mmseg's metrics (mIoU, aAcc, mDice ...) and the accuracies of heads; mAP is a fraction.
PERCENTAGE = re.compile(rf'{_CLASSIFICATION}|(.*/)?(?!mAP)[am][A-Z]\w*|(.*\.)?acc(_seg)?')
MAIN_METRIC = re.compile(rf'{_CLASSIFICATION}|(.*/)?((bbox_|segm_)?mAP(_50)?|[am][A-Z]\w*)')

Points = List[Tuple[int, float]]


@dataclass
class Log:
    """All logged values of a run.

    Training lines are in the order of their iterations (``iter``) and have means since the
    previous line. Evaluation lines come with their iterations; in logs that count epochs, with
    that of the previous training line.
    """

    name: str
    train: List[Dict[str, float]]
    val: List[Tuple[int, Dict[str, float]]]

    @cached_property
    def curves(self) -> Dict[str, Points]:
        """Iterations and values of every key, training keys first.

        If training and evaluation both log a key, such as time, the evaluation's gets the prefix
        ``val/``.
        """
        curves: Dict[str, Points] = {}
        trained = {key for line in self.train for key in line}
        for step, line in (*((line['iter'], line) for line in self.train), *self.val):
            prefix = '' if 'iter' in line else 'val/'
            for key, value in line.items():
                if key not in PLACES:
                    name = prefix + key if key in trained else key
                    curves.setdefault(name, []).append((step, value))
        return curves

    @property
    def metrics(self) -> List[str]:
        """Keys of evaluations, without losses, times and memory."""
        keys = dict.fromkeys(key for _, line in self.val for key in line if 'loss' not in key)
        return [key for key in keys if key not in (*PLACES, 'time', 'data_time', 'memory')]

    @property
    def main_metrics(self) -> List[str]:
        """Keys of the metrics shown by default."""
        return well_known(self.metrics)

    @property
    def losses(self) -> List[str]:
        """Keys of the training losses, the total first; without a part that equals the total."""
        names = [key for key in self.curves if 'loss' in key and not key.startswith('val/')]
        names.sort(key=lambda name: name != 'loss')
        return names[:1] if len(names) == 2 and 'loss' in names else names

    def points(self, key: str) -> Points:
        """Return the iterations and values of a key; see :meth:`full_name`."""
        return self.curves[self.full_name(key)]

    def best(self, key: str) -> Optional[Tuple[int, float]]:
        """Return iteration and value of the highest finite value of a key, or None."""
        finite = [point for point in self.points(key) if math.isfinite(point[1])]
        return max(finite, key=lambda point: point[1], default=None)

    def full_name(self, key: str) -> str:
        """Return the full name of a key; as in mmdet's tool, bbox_mAP is short for coco/bbox_mAP.

        Raises:
            UsageError: the run has not logged it; the message lists its keys.
        """
        keys = list(self.curves)
        names = [key] if key in keys else [n for n in keys if n.rpartition('/')[2] == key]
        if len(names) != 1:
            raise UsageError(f'the log of {self.name} has no {key}; it has {", ".join(keys)}')
        return names[0]


def well_known(metrics: List[str]) -> List[str]:
    """Return the keys of metrics that are well known; all if none is."""
    return [key for key in metrics if MAIN_METRIC.fullmatch(key)] or metrics


def metric_text(value: float, key: str = '') -> str:
    """Format a metric: percentages with two digits, fractions with three.

    COCO's evaluation returns -1 if there are no objects.
    """
    if not math.isfinite(value) or value < 0:
        return '-'
    percentage = PERCENTAGE.fullmatch(key) or '%' in key or value > 1
    return f'{value:.2f}' if percentage else f'{value:.3f}'


def read_log(path: Path, name: str = '') -> Log:
    """Read the log of a run from its work dir, or from a file such as ``scalars.json``.

    A resumed run logs to several dated folders. Later ones replace the iterations that they
    repeat. By default, the name of the run is that of its work dir.

    Raises:
        UsageError: the path does not exist, has no log, or a file is not a log.
    """
    train: List[Dict[str, float]] = []
    val: List[Tuple[int, Dict[str, float]]] = []
    for file in _log_files(path):
        lines = _lines(file)
        first = next((line['iter'] for line in lines if 'iter' in line), None)
        if first is not None:
            train = [line for line in train if line['iter'] < first]
            val = [(step, line) for step, line in val if step < first]
        for line in lines:
            if 'iter' in line:
                train.append(line)
            else:
                last = train[-1]['iter'] if train else 0
                val.append((max(last, line.get('step', 0)), line))
    if not train and not val:
        raise UsageError(f'{path} has no logs yet; the run stopped before its first log line')
    return Log(name or _name(path.absolute()), train, val)


def _name(path: Path) -> str:
    if path.is_file():
        return path.parents[2].name if path.parent.name == 'vis_data' else path.stem
    return path.name


def _log_files(path: Path) -> List[Path]:
    """Return the log files in a work dir, the oldest first, or the file itself."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f'{path} not found; pass the work dir of a run, or its scalars.json')
    # Folders are named by their time; file times may be from a copy.
    files = sorted(path.glob('*/vis_data/scalars.json')) or sorted(path.glob('scalars.json'))
    if not files:
        raise UsageError(
            f'{path} contains no log (*/vis_data/scalars.json); pass the work dir of a run that '
            'has logged an iteration, with LocalVisBackend in its visualizer.vis_backends'
        )
    return files


def _lines(file: Path) -> List[Dict[str, float]]:
    """Return the lines of a log; the last one of a killed run may be truncated."""
    texts = file.read_text(encoding='utf-8', errors='replace').splitlines()
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            # log_with_hierarchy adds prefixes.
            line = {re.sub('^(train|val)/', '', k): v for k, v in json.loads(text).items()}
        except (ValueError, AttributeError):
            if number == len(texts) and (lines or text.startswith('{')):
                break
            raise UsageError(
                f'{file} is not a log: line {number} is not a JSON object; pass a scalars.json'
            ) from None
        if 'loss' in line and 'lr' in line:
            line.setdefault('iter', line.get('step', 0))
        lines.append({k: v for k, v in line.items() if isinstance(v, (int, float))})
    return lines


def write_csv(logs: Sequence[Log], path: Path, keys: Sequence[str]) -> None:
    """Write a table with one row per run and iteration at which any of the keys was logged.

    Raises:
        UsageError: a run has not logged a key.
    """
    with path.open('w', newline='', encoding='utf-8', errors='surrogateescape') as file:
        writer = csv.writer(file)
        writer.writerow(['run', 'iter', *keys])
        for log in logs:
            columns = [dict(log.points(key)) for key in keys]
            for step in sorted(set().union(*columns)):
                writer.writerow([log.name, step, *(column.get(step, '') for column in columns)])
