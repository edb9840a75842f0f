"""Logs of runs, as mmengine's LocalVisBackend writes them."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..engine.errors import UsageError

PLACES = ('step', 'iter', 'epoch')
"""What a line says of its place, rather than of what was measured there."""

PERCENTAGE = re.compile(r'[am][A-Z]\w*|(.*\.)?acc(_seg)?')
"""mmseg's metrics (mIoU, aAcc, mDice ...) and the accuracies of heads; COCO's are fractions."""

MAIN_METRIC = re.compile(r'(.*/)?((bbox_|segm_)?mAP(_50)?|[am][A-Z]\w*)')
"""The metrics that are shown where nobody asks for certain ones."""

Points = List[Tuple[int, float]]


class Log(NamedTuple):
    """What a run has logged.

    Attributes:
        name: what to call the run.
        train: lines of training, in the order of their iterations (``iter``), each with the means
            since the line before.
        val: lines of evaluations, each with the iteration after which it was measured; where a
            log counts them by epochs, that of the last line of training before it.
    """

    name: str
    train: List[Dict[str, float]]
    val: List[Tuple[int, Dict[str, float]]]

    @property
    def keys(self) -> List[str]:
        """Names of all that was logged, training first.

        A name that both training and evaluations use, such as time, stands for training; that of
        evaluations begins with ``val/``.
        """
        trained = dict.fromkeys(key for line in self.train for key in line)
        measured = dict.fromkeys(key for _, line in self.val for key in line)
        evaluated = [f'val/{key}' if key in trained else key for key in measured]
        return [key for key in (*trained, *evaluated) if key not in PLACES and key[4:] != 'step']

    @property
    def metrics(self) -> List[str]:
        """Names of what evaluations measured, their times aside."""
        keys = dict.fromkeys(key for _, line in self.val for key in line)
        return [key for key in keys if key not in (*PLACES, 'time', 'data_time', 'memory')]

    @property
    def losses(self) -> List[str]:
        """Names of the training losses, the total first; an only part is the total."""
        names = [key for key in self.keys if 'loss' in key and not key.startswith('val/')]
        names.sort(key=lambda name: name != 'loss')
        return names[:1] if len(names) == 2 and 'loss' in names else names

    def points(self, key: str) -> Points:
        """Iterations and values of a key.

        Raises:
            UsageError: the run has logged nothing of this name; the message lists what it has.
        """
        name = self.full_name(key)
        if name.startswith('val/') or name not in {k for line in self.train for k in line}:
            key = name[len('val/') :] if name.startswith('val/') else name
            return [(step, line[key]) for step, line in self.val if key in line]
        return [(line['iter'], line[name]) for line in self.train if name in line]

    def best(self, key: str) -> Optional[Tuple[int, float]]:
        """Iteration and value of a key where it was highest; None where it was never finite.

        Raises:
            UsageError: see :meth:`points`.
        """
        finite = [point for point in self.points(key) if math.isfinite(point[1])]
        return max(finite, key=lambda point: point[1], default=None)

    def full_name(self, key: str) -> str:
        """A key as it was logged: bbox_mAP, as mmdet's own tool says, is coco/bbox_mAP.

        Raises:
            UsageError: see :meth:`points`.
        """
        keys = self.keys
        found = [name for name in keys if name.rpartition('/')[2] == key]
        if key in keys:
            return key
        if len(found) != 1:
            raise UsageError(f'the log of {self.name} has no {key}; it has {", ".join(keys)}')
        return found[0]


def read_log(path: Path, name: str = '') -> Log:
    """Read what a run has logged.

    A run that was resumed has logged in several dated folders. The iterations that a later one
    covers again are those of the later one.

    Args:
        path: work dir of the run, or a ``scalars.json`` or another file of such lines.
        name: what to call the run; default: the name of its work dir.

    Raises:
        UsageError: there is no such path, no log in it, or a file is no log.
    """
    files = log_files(path)
    train: List[Dict[str, float]] = []
    val: List[Tuple[int, Dict[str, float]]] = []
    for file in files:
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
        raise UsageError(f'{path} has logged nothing yet; give a run that went on for longer')
    return Log(name or _name(path), train, val)


def log_files(path: Path) -> List[Path]:
    """Files of scalars below a work dir, the oldest first, or the file itself.

    Raises:
        UsageError: see :func:`read_log`.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f'{path} does not exist; give the work dir of a run, or its scalars.json')
    # The folders are named by their time; that of the files may be the time of a copy.
    files = sorted(path.glob('*/vis_data/scalars.json')) or sorted(path.glob('scalars.json'))
    if not files:
        raise UsageError(
            f'{path} holds no log (*/vis_data/scalars.json); give the work dir of a run that had '
            'LocalVisBackend among its visualizer.vis_backends'
        )
    return files


def _name(path: Path) -> str:
    path = path.absolute()
    if path.is_dir():
        return path.name
    is_in_work_dir = path.parent.name == 'vis_data'
    return path.parents[2].name if is_in_work_dir else path.stem


def _lines(file: Path) -> List[Dict[str, float]]:
    """Lines of a log; the last one of a run that was killed may be half a line."""
    texts = file.read_text(encoding='utf-8', errors='replace').splitlines()
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError
        except ValueError:
            if number == len(texts) and lines:
                break
            raise UsageError(
                f'{file} is no log: its line {number} is no JSON object; give a scalars.json'
            ) from None
        # Of a log processor with log_with_hierarchy. What is not a number makes no curve.
        line = {re.sub('^(train|val)/', '', key): value for key, value in line.items()}
        if 'loss' in line and 'lr' in line:
            line.setdefault('iter', line.get('step', 0))
        lines.append({k: v for k, v in line.items() if isinstance(v, (int, float))})
    return lines


def write_csv(logs: Sequence[Log], path: Path, keys: Sequence[str]) -> None:
    """Write a table with a row for each iteration of each run at which one of the keys was logged.

    Args:
        logs: of the runs.
        path: file to write.
        keys: what to write; empty cells stand for what was not logged there.

    Raises:
        UsageError: a run has logged nothing of that name.
    """
    with path.open('w', newline='', encoding='utf-8', errors='surrogateescape') as file:
        writer = csv.writer(file)
        writer.writerow(['run', 'iter', *keys])
        for log in logs:
            columns = [dict(log.points(key)) for key in keys]
            for step in sorted(set().union(*columns)):
                writer.writerow([log.name, step, *(column.get(step, '') for column in columns)])
