"""Logs of runs, resumed ones too."""

import json
import math

import pytest

from mmrest.errors import UsageError
from mmrest.reporting.logs import metric_text, read_log


def line(step, loss, **others):
    return dict(lr=0.1, loss=loss, time=0.5, iter=step, step=step, **others)


def write_log(folder, date, *lines):
    path = folder / date / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, lines)) + '\n')
    return path


def test_run_by_iterations(tmp_path):
    write_log(tmp_path / 'run', '20260101_000000', line(10, 3.0), line(20, 2.0),
          dict(mIoU=40.0, time=0.1, val_loss=1.0, step=20), line(30, 1.0),
          dict(mIoU=60.0, time=0.1, step=30),
    )  # fmt: skip
    log = read_log(tmp_path / 'run')
    assert log.name == 'run' and log.metrics == ['mIoU'] and log.losses == ['loss']
    assert log.curves == {
        'lr': [(10, 0.1), (20, 0.1), (30, 0.1)],
        'loss': [(10, 3), (20, 2), (30, 1)],
        'time': [(10, 0.5), (20, 0.5), (30, 0.5)],
        'mIoU': [(20, 40), (30, 60)],
        'val_loss': [(20, 1)],
        'val/time': [(20, 0.1), (30, 0.1)],
    }


def test_run_by_epochs(tmp_path):
    """An evaluation counted in epochs gets the last iteration before it."""
    path = write_log(tmp_path, 'x', line(10, 3.0, epoch=1), {'coco/bbox_mAP': 0.3, 'step': 1},
                 line(20, 2.0, epoch=2), {'coco/bbox_mAP': 0.6, 'step': 2})  # fmt: skip
    log = read_log(path, 'mine')
    assert log.name == 'mine' and log.points('coco/bbox_mAP') == [(10, 0.3), (20, 0.6)]
    assert log.points('bbox_mAP') == log.points('coco/bbox_mAP')  # as mmdet's own tool has it


RUN = (line(10, 3.0), line(20, 2.0), dict(mIoU=4.0, step=20), line(30, 9.0),
       dict(mIoU=1.0, step=30))  # fmt: skip


@pytest.mark.parametrize('resumed, losses, metrics', [
    (  # replaces repeated iterations, also of evaluations
        (line(25, 1.5), line(30, 1.0), dict(mIoU=6.0, step=30)),
        [(10, 3), (20, 2), (25, 1.5), (30, 1)], [(20, 4), (30, 6)],
    ),
    (  # first repeats an evaluation that was interrupted
        (dict(mIoU=5.0, step=1), line(25, 1.5)),
        [(10, 3), (20, 2), (25, 1.5)], [(20, 4), (20, 5)],
    ),
])  # fmt: skip
def test_resumed_run(tmp_path, resumed, losses, metrics):
    write_log(tmp_path, '20260101_000000', *RUN)
    write_log(tmp_path, '20260102_000000', *resumed)
    (tmp_path / '20260103_000000').mkdir()  # ended before its first line
    log = read_log(tmp_path)
    assert log.points('loss') == losses and log.points('mIoU') == metrics


def test_hierarchy_and_texts(tmp_path):
    path = write_log(tmp_path, 'x', {'train/lr': 0.1, 'train/loss': 2.0, 'note': 'x', 'step': 5})
    assert read_log(path).curves == {'lr': [(5, 0.1)], 'loss': [(5, 2)]}


def test_losses(tmp_path):
    """The total comes first, and replaces a single part."""
    parts = dict(loss_cls=1.0, loss_box=1.0)
    assert read_log(write_log(tmp_path, 'x', line(1, 2.0, **parts))).losses == ['loss', *parts]
    one = {'decode.loss_ce': 2.0}
    assert read_log(write_log(tmp_path, 'y', line(1, 2.0, **one))).losses == ['loss']


def test_best(tmp_path):
    """NaN and infinity are ignored."""
    values = (math.nan, 3.0, 5.0, math.inf, 4.0)
    evaluations = [dict(mIoU=value, aAcc=math.nan, step=n) for n, value in enumerate(values, 1)]
    log = read_log(write_log(tmp_path, 'x', line(1, 2.0), *evaluations))
    assert log.best('mIoU') == (3, 5) and log.best('aAcc') is None


@pytest.mark.parametrize('key, text', [
    ('accuracy/top1', '0.90'), ('multi-label/mAP', '0.90'), ('mIoU', '0.90'),
    ('pascal_voc/mAP', '0.900'), ('coco/bbox_mAP', '0.900'),
])  # fmt: skip
def test_metrics(key, text):
    assert metric_text(0.9, key) == text


@pytest.mark.parametrize('lines, message', [
    ('', 'has no logs yet'),
    ('{"lr": 0.1, "lo', 'has no logs yet'),  # killed in its first line
    ('{"loss": 1, "iter": 1}\nloss\n{}', 'is not a log: line 2 is not a JSON object'),
    ('[1]', 'is not a log: line 1'),
])  # fmt: skip
def test_no_log(tmp_path, lines, message):
    (tmp_path / 'scalars.json').write_text(lines)
    with pytest.raises(UsageError, match=message):
        read_log(tmp_path)
