"""tools/report.py on runs of a detector and of a segmentor."""

import re
import runpy
import shutil
from importlib.util import find_spec

import pytest

from mmrest.reporting.logs import read_log
from tests.reporting.test_report import check_page
from tests.runs import DETECTOR, ROOT, SEGMENTOR, run, save_weights, train

BOARD = ['TensorboardVisBackend'] if find_spec('tensorboard') else []


@pytest.fixture(scope='module')
def detector(tmp_path_factory, coco_root):
    """A run of a detector, and its report."""
    folder = tmp_path_factory.mktemp('detector')
    (folder / 'tiny.py').write_text(DETECTOR)
    backends = [dict(type=name) for name in ('LocalVisBackend', *BOARD)]
    options = ('--cfg-options', f'visualizer.vis_backends={backends}')
    train('tiny.py', '--data-root', coco_root, '--work-dir', 'run', *options, cwd=folder)
    done = run(
        ROOT / 'tools' / 'report.py', 'run', '--num-pictures', 2, '--score-thr', 0, cwd=folder
    )
    assert 'report saved to run/report.html' in done.stdout
    return folder


def test_detector(detector):
    text = (detector / 'run' / 'report.html').read_text()
    for name in ('person', 'bicycle', 'car'):
        row = re.search(rf'<th scope="row">{name}</th>(.*?)</tr>', text, re.S)[1]
        objects, *average = re.findall('>([^<]+)</td>', row)
        assert objects == '4' and len(average) == 4
        assert all(0 <= float(value) <= 1 for value in average)
    assert text.count('<img ') == 12
    assert 'ground truth of 000000000001.jpg: ' in text and '1 person' in text
    assert 'box AP75' in text and '-1.000' not in text
    # Nothing but the page is added to the run.
    assert len(list((detector / 'run').glob('2*'))) == 1
    # mmengine's log says where the run ran.
    row = re.search(r'<th scope="row">MMEngine</th>(.*?)</tr>', text, re.S)[1]
    then, now = re.findall('>([^<]+)</td>', row)
    assert then == now != '-'


@pytest.mark.skipif(not BOARD, reason='no TensorBoard: pip install tensorboard')
def test_tensorboard(detector):
    """It gets the values of the log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (detector / 'run').glob('2*/vis_data/events*')
    board = EventAccumulator(str(events))
    board.Reload()
    log = read_log(detector / 'run')
    written = {event.step: event.value for event in board.Scalars('loss')}
    assert written == pytest.approx(dict(log.points('loss')))
    assert set(log.metrics) <= set(board.Tags()['scalars'])


def test_detector_page(detector):
    check_page((detector / 'run' / 'report.html').read_text())


def test_segmentor_of_mmseg(tmp_path, ade_root, monkeypatch, capsys):
    """A work dir of mmseg's own train.py: no throughput, only weights."""
    run_dir = tmp_path / 'run'
    log = run_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(
        '{"lr": 0.1, "loss": 2.0, "decode.loss_ce": 2.0, "time": 0.5, "iter": 1, "step": 1}\n'
        '{"mIoU": 1.5, "aAcc": 20.0, "mAcc": 2.0, "time": 0.1, "step": 2}\n'
    )
    (run_dir / 'tiny.py').write_text(SEGMENTOR)
    save_weights(run_dir / 'best_mIoU_iter_2.pth', run_dir / 'tiny.py')
    shutil.copytree(ade_root, tmp_path / 'data')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        'sys.argv', 'report.py run --data-root data --out new/page.html --device cpu'.split()
    )
    runpy.run_path(str(ROOT / 'tools' / 'report.py'), run_name='__main__')
    assert 'report saved to new/page.html' in capsys.readouterr().out
    text = (tmp_path / 'new' / 'page.html').read_text()
    assert text.count('<th scope="row">') > 150 and 'IoU (%)' in text
    assert re.search(r'<dt>training, median</dt><dd>4.0 img/s', text)
    check_page(text)
