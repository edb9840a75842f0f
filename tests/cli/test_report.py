"""mmrest report on runs of a detector and of a segmentor, and mmrest curves."""

import csv
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from rich.console import Console

from mmrest.cli.report import summary
from mmrest.reporting.logs import Log
from tests.reporting.test_logs import write_log
from tests.reporting.test_report import check_page, facts
from tests.runs import DETECTOR, ROOT, SEGMENTOR, run, run_here, save_weights, train


def test_detector(tmp_path, coco_root):
    (tmp_path / 'tiny.py').write_text(DETECTOR)
    files = ('val_evaluator.outfile_prefix=kept/x', 'default_hooks.checkpoint.out_dir=weights')
    options = ('--work-dir', 'run', '--cfg-options', *files)
    train('tiny.py', '--data-root', coco_root, *options, cwd=tmp_path)
    kept = tmp_path / 'kept' / 'x.bbox.json'
    kept.write_text('of the run')
    best = shutil.copy(tmp_path / 'weights/run/epoch_1.pth', tmp_path / 'weights/run/best_x.pth')
    backend = dict(type='LocalVisBackend', save_dir='kept')
    config = tmp_path / 'run' / 'tiny.py'
    config.write_text(f"{config.read_text()}\nvisualizer['vis_backends'] = [{backend}]\n")
    options = ('--num-pictures', 2, '--score-thr', 0)
    done = run(ROOT / 'tools' / 'report.py', 'run', *options, cwd=tmp_path)
    assert 'report saved to run/report.html' in done.stdout
    text = (tmp_path / 'run' / 'report.html').read_text()
    for name in ('person', 'bicycle', 'car'):
        row = re.search(rf'<th scope="row">{name}</th>(.*?)</tr>', text, re.S)[1]
        objects, *average = re.findall('>([^<]+)</td>', row)
        assert objects == '4' and len(average) == 4
        assert all(0 <= float(value) <= 1 for value in average)
    assert text.count('src="data:image/jpeg') == 12
    assert re.search('alt="ground truth: .*1 person.*, of 000000000001.jpg"', text)
    assert 'box AP75' in text and '-1.000' not in text
    assert Path(best).name in text
    # Nothing but the page is added to the run, and nothing replaced.
    assert kept.read_text() == 'of the run' and len(list(kept.parent.iterdir())) == 2
    assert len(list((tmp_path / 'run').glob('2*'))) == 1
    # mmengine's log says where the run ran.
    row = re.search(r'<th scope="row">MMEngine</th>(.*?)</tr>', text, re.S)[1]
    then, now = re.findall('>([^<]+)</td>', row)
    assert then == now != '-'
    check_page(text)


def test_segmentor_of_mmseg(tmp_path, ade_root, monkeypatch, capsys):
    """A work dir of mmseg's own train.py, with a FlexibleRunner: no throughput, only weights."""
    run_dir = tmp_path / 'run'
    write_log(
        run_dir, '20260101_000000',
        {'lr': 0.1, 'loss': 2.0, 'decode.loss_ce': 2.0, 'time': 0.5, 'iter': 1, 'step': 1},
        dict(mIoU=1.5, aAcc=20.0, mAcc=2.0, time=0.1, step=2),
    )  # fmt: skip
    flexible = "runner_type = 'FlexibleRunner'\nstrategy = dict(type='DDPStrategy')"
    (run_dir / 'tiny.py').write_text(f'{SEGMENTOR}\n{flexible}')
    save_weights(run_dir / 'best_mIoU_iter_2.pth', run_dir / 'tiny.py')
    monkeypatch.chdir(tmp_path)
    options = ('--data-root', ade_root, '--out', 'new/page.html', '--device', 'cpu')
    assert not run_here('report', 'run', *options)
    assert 'report saved to new/page.html' in capsys.readouterr().out
    text = (tmp_path / 'new' / 'page.html').read_text()
    assert text.count('<th scope="row">') > 150 and 'IoU (%)' in text
    found = facts(text)
    assert found['training, median'] == '4.0 img/s'
    assert re.fullmatch(r'[\d.]+ ms per batch on cpu, .*', found['inference, median'])
    assert re.fullmatch(r'0\.\d\d million', found['parameters'])
    assert re.fullmatch(r'[\d,]+ MB at most', found['memory in evaluation'])
    check_page(text)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Work dirs of two runs, both resumed and then killed."""
    for name, loss in (('first', 3.0), ('second', 2.0)):
        for date, steps in (('20260101_000000', (10, 20)), ('20260102_000000', (15, 30))):
            lines = [dict(lr=0.1, loss=loss / s, loss_cls=1 / s, loss_box=1 / s, time=0.5, iter=s,
                          step=s) for s in steps]  # fmt: skip
            lines.append({'coco/bbox_mAP': 0.1 * loss, 'step': 1})
            path = write_log(tmp_path / name, date, *lines)
            path.write_text(f'{path.read_text()}{{"lr"')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_curves_of_one_run(runs, capsys):
    assert not run_here('analyze_logs', 'first', '--title', 'A title')
    printed = capsys.readouterr().out
    assert 'saved to curves.png, curves.csv' in printed and '0.3' in printed
    assert cv2.imread(str(runs / 'curves.png')).std() > 10
    found = rows(runs / 'curves.csv')
    assert list(found[0]) == [
        'run', 'iter', 'loss', 'loss_cls', 'loss_box', 'coco/bbox_mAP', 'lr', 'time',
    ]  # fmt: skip
    assert [(row['iter'], row['loss'], row['coco/bbox_mAP']) for row in found] == [
        ('10', '0.3', ''), ('15', '0.2', ''), ('30', '0.1', str(0.1 * 3.0)),
    ]  # fmt: skip


def test_summary_on_a_narrow_terminal():
    """All values are shown."""
    values = {f'metric{n}/mIoU': n / 997 for n in range(100, 112)}
    log = Log('run', [dict(iter=9, loss=1.0)], [(9, values)])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary([log, replace(log, name='[other]')]))
    printed = console.export_text()
    assert '[other]' in printed and '…' not in printed
    assert all(printed.count(f' {value:.4g} ') == 2 for value in values.values())


def test_curves_of_two_runs(runs):
    arguments = ['first', 'second', '--keys', 'bbox_mAP', 'loss', '--legend', 'A', 'B']
    assert not run_here('analyze_logs', *arguments, '--out', 'new/x.svg', 'new/x.pdf', 'new/x.csv')
    assert {(row['run'], row['iter']) for row in rows(runs / 'new' / 'x.csv')} == {
        (name, step) for name in 'AB' for step in ('10', '15', '30')
    }
    assert (runs / 'new' / 'x.svg').read_text().count('<!--  A -->') == 1
    assert (runs / 'new' / 'x.pdf').read_bytes().startswith(b'%PDF')
