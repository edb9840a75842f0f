"""tools/analyze_logs.py on logs of one run and of two."""

import csv
import json
import math

import cv2
import pytest

from mmrest.cli import curves
from mmrest.reporting.logs import Log
from tests.runs import ROOT, run

ANALYZE = ROOT / 'tools' / 'analyze_logs.py'


@pytest.fixture
def runs(tmp_path):
    """Work dirs of two runs, of which one was resumed."""
    for name, loss in (('first', 3.0), ('second', 2.0)):
        for date, steps in (('20260101_000000', (10, 20)), ('20260102_000000', (15, 30))):
            path = tmp_path / name / date / 'vis_data' / 'scalars.json'
            path.parent.mkdir(parents=True)
            lines = [dict(lr=0.1, loss=loss / s, loss_cls=1 / s, loss_box=1 / s, time=0.5, iter=s,
                          step=s) for s in steps]  # fmt: skip
            lines.append({'coco/bbox_mAP': 0.1 * loss, 'step': 1})
            path.write_text('\n'.join(map(json.dumps, lines)) + '\n{"lr"')
    return tmp_path


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_one_run(runs):
    done = run(ANALYZE, 'first', '--title', 'A title', cwd=runs)
    assert 'Written: curves.png, curves.csv' in done.stdout and '0.3' in done.stdout
    assert cv2.imread(str(runs / 'curves.png')).std() > 10
    found = rows(runs / 'curves.csv')
    assert list(found[0]) == [
        'run', 'iter', 'loss', 'loss_cls', 'loss_box', 'coco/bbox_mAP', 'lr', 'time',
    ]  # fmt: skip
    assert [row['iter'] for row in found] == ['10', '15', '30']


def test_two_runs(runs):
    arguments = ['first', 'second', '--keys', 'bbox_mAP', 'loss', '--legend', 'A', 'B']
    run(ANALYZE, *arguments, '--out', 'new/x.svg', 'new/x.csv', cwd=runs)
    assert {(row['run'], row['iter']) for row in rows(runs / 'new' / 'x.csv')} == {
        (name, step) for name in 'AB' for step in ('10', '15', '30')
    }
    assert (runs / 'new' / 'x.svg').read_text().count('<!-- A -->') == 1


def test_best_metrics():
    """What is no number is not the best, and does not hide it."""
    table = curves.summary
    log = Log('run', [], [(n, dict(mIoU=value)) for n, value in enumerate((math.nan, 3, 5, 4))])
    assert list(table([log]).columns[-1].cells) == ['5']
