"""tools/analyze_logs.py on logs of one run and of two."""

import csv
import json

import cv2
import pytest

from tests.runs import ROOT, run

ANALYZE = ROOT / 'tools' / 'analyze_logs.py'


@pytest.fixture
def runs(tmp_path):
    """Work dirs of two runs, both resumed and then killed."""
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
    assert 'saved to curves.png, curves.csv' in done.stdout and '0.3' in done.stdout
    assert cv2.imread(str(runs / 'curves.png')).std() > 10
    found = rows(runs / 'curves.csv')
    assert list(found[0]) == [
        'run', 'iter', 'loss', 'loss_cls', 'loss_box', 'coco/bbox_mAP', 'lr', 'time',
    ]  # fmt: skip
    assert [(row['iter'], row['loss'], row['coco/bbox_mAP']) for row in found] == [
        ('10', '0.3', ''), ('15', '0.2', ''), ('30', '0.1', str(0.1 * 3.0)),
    ]  # fmt: skip


def test_two_runs(runs):
    arguments = ['first', 'second', '--keys', 'bbox_mAP', 'loss', '--legend', 'A', 'B']
    run(ANALYZE, *arguments, '--out', 'new/x.svg', 'new/x.pdf', 'new/x.csv', cwd=runs)
    assert {(row['run'], row['iter']) for row in rows(runs / 'new' / 'x.csv')} == {
        (name, step) for name in 'AB' for step in ('10', '15', '30')
    }
    assert (runs / 'new' / 'x.svg').read_text().count('<!-- A -->') == 1
    assert (runs / 'new' / 'x.pdf').read_bytes().startswith(b'%PDF')
