"""The page of a report."""

import json
import re
from types import SimpleNamespace
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

from mmrest.engine.config import load_config
from mmrest.reporting.evaluation import Evaluation, ScoresHook, _speed
from mmrest.reporting.logs import Log
from mmrest.reporting.report import write_report
from mmrest.reporting.scores import LabelMapScores
from mmrest.reporting.work_dir import changes_of, logged_environment
from tests.runs import ROOT, SEGMENTOR, run

NAMES = [f'class {number} <b>{"of_a_very_long_name" * 6}</b>' for number in range(150)]
LOG = Log(
    'a <run> of a long name, ' + 'x' * 60,
    [dict(iter=step, lr=0.1, loss=3.0 / step, time=0.5, data_time=0.1, memory=900.0)
     for step in (10, 20)],
    [(10, dict(mIoU=20.0)), (20, dict(mIoU=10.0))],
)  # fmt: skip


class Images(list):
    """A dataset, as far as a report reads it."""

    metainfo: ClassVar = dict(classes=NAMES)

    def __len__(self):
        return 2


@pytest.fixture
def evaluated(tmp_path):
    scores = LabelMapScores(NAMES, 255)
    for number, wrong in enumerate((0, 30)):
        path = tmp_path / f'{number}_{"long_name" * 20}.png'
        cv2.imwrite(str(path), np.full((30, 40, 3), 200, np.uint8))
        truth = torch.full((1, 30, 40), 7)
        found = truth.clone()
        found[:, :wrong] = 8
        sample = SegDataSample(metainfo=dict(img_path=str(path)))
        sample.gt_sem_seg, sample.pred_sem_seg = PixelData(data=truth), PixelData(data=found)
        scores.add(sample)
    speed = [('inference, median', '20.0 ms')]
    return Evaluation('x.pth', 'val', dict(mIoU=25.0), scores, Images(), speed)


@pytest.fixture
def cfg(tmp_path):
    (tmp_path / 'tiny.py').write_text(SEGMENTOR)
    return Config.fromfile(tmp_path / 'tiny.py')


def write(tmp_path, cfg, evaluation=None, **kwargs):
    out = tmp_path / 'new' / 'report.html'
    write_report(tmp_path, cfg, LOG, out, evaluation, **kwargs)
    return out.read_text()


def facts(text):
    """Rows of the tables with one value each."""
    return dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', text))


def check_page(text):
    """It loads nothing external, and every picture has a text."""
    assert not re.search('(src|srcset|href)="(?!data:|#)|@import|url\\(.?http', text)
    ids = re.findall(' id="(.*?)"', text)
    assert len(set(ids)) == len(ids)
    for picture in re.findall('<img .*?>', text, re.S):
        assert re.search('alt="[^"]', picture), picture


def test_content(tmp_path, cfg, evaluated):
    text = write(tmp_path, cfg, evaluated)
    check_page(text)
    assert text.count('<th scope="row">class ') == 150
    assert '<b>' not in text and '&lt;b&gt;' in text and 'a &lt;run&gt;' in text
    assert re.search(r'Best</h3>\s*<figure>\s*<figcaption>0_long.*: score 1.000', text)
    assert re.search(r'Worst</h3>\s*<figure>\s*<figcaption>1_long.*: score 0.000', text)
    assert len(re.findall('src="data:image/jpeg', text)) == 6
    found = facts(text)
    assert found['mIoU'] == '25.00' and found['inference, median'] == '20.0 ms'
    assert found['training, median'] == '4.0 img/s'
    assert found['memory of the GPU in training'] == '900 MB at most'
    # Of the evaluations in training the best one is not the last.
    row = re.findall(r'<th scope="row">mIoU</th>(.*?)</tr>', text, re.S)[1]
    assert re.findall('>([^<]+)</td>', row) == ['10.00', '20.00', '10']
    text = write(tmp_path, cfg, evaluated, number=0)
    assert 'image/jpeg' not in text and '2 images have a score' in text


def test_logs_only(tmp_path, cfg):
    text = write(tmp_path, cfg)
    assert text.count('<img ') == 1 and 'Best and worst' not in text
    assert '#predictions' not in text and '#classes' not in text


def test_several_datasets_per_batch(tmp_path, cfg):
    cfg.train_dataloader.batch_size = [1, 2]
    cfg.optim_wrapper.accumulative_counts = 2
    found = facts(write(tmp_path, cfg))
    assert found['batch size'] == '6 = 3 x 1 process x 2 accumulated'
    assert found['training, median'] == '6.0 img/s'


def test_differences(tmp_path):
    assert changes_of(load_config('demo_semfpn_rest_lite'), 'loveda.py') == (None, [])  # of a base
    cfg = load_config('demo_semfpn_rest_lite', {'optim_wrapper.optimizer.lr': 0.5})
    text = write(tmp_path, cfg)
    table = text[text.index('Differences from') : text.index('Full config')]
    assert re.findall('<code>(.*?)</code>', table) == [
        'optim_wrapper.optimizer.lr', '0.0015', '0.5',
    ]  # fmt: skip


WITHOUT_UTF8 = """
import sys
from pathlib import Path
from mmengine.config import Config
from mmrest.reporting.logs import read_log, write_csv
from mmrest.reporting.report import write_report
run, config = map(Path, sys.argv[1:])
log = read_log(run, 'r\xfcn')
write_csv([log], run / 'x.csv', ['\xe4'])
write_report(run, Config.fromfile(config), log, run / 'x.html')
"""


def test_whatever_the_locale(tmp_path, cfg):
    """Logs are read and pages and tables are written as UTF-8."""
    folder = tmp_path / 'run' / '20260101_000000'
    (folder / 'vis_data').mkdir(parents=True)
    line = json.dumps(dict(iter=1, loss=2.0, lr=0.1, ä=1.0), ensure_ascii=False)
    (folder / 'vis_data' / 'scalars.json').write_text(line + '\n', encoding='utf-8')
    head = f'System environment:\n    Ort: Zürich\n{"-" * 30}\n'
    (folder / 'x.log').write_text(head, encoding='utf-8')
    tested = folder.with_name('20260202_000000') / 'x.log'
    (tested.parent / 'vis_data').mkdir(parents=True)
    (tested.parent / 'vis_data' / 'config.py').touch()
    tested.write_text(head.replace('Zürich', 'Bern'), encoding='utf-8')
    assert logged_environment(folder.parent) == dict(Ort='Zürich')
    (tmp_path / 'script.py').write_text(WITHOUT_UTF8, encoding='utf-8')
    run(
        tmp_path / 'script.py', folder.parent, cfg.filename, cwd=ROOT, LC_ALL='C', PYTHONUTF8='0',
        PYTHONCOERCECLOCALE='0', PYTHONPATH=str(ROOT), fresh=True,
    )  # fmt: skip
    page = (folder.parent / 'x.html').read_text(encoding='utf-8')
    assert 'rün' in page and 'Zürich' in page
    assert 'rün,1,1.0' in (folder.parent / 'x.csv').read_text(encoding='utf-8')


def test_speed_of_an_evaluation():
    """Seconds of the timer, of which loading is no part, and numbers of parameters."""
    hub = MessageHub('speed')
    for _ in range(3):
        hub.update_scalars({'test/time': 0.03, 'test/data_time': 0.01})
    runner = SimpleNamespace(model=torch.nn.Linear(15_000, 1000, bias=False), message_hub=hub)
    found = dict(_speed(runner, torch.device('cpu')))
    assert found['inference, median'] == '20.0 ms per batch on cpu, without data loading'
    assert found['parameters'] == '15.00 million'
    assert 50 < float(found['memory in evaluation'].split()[0].replace(',', '')) < 50_000


def test_void_pixels_are_those_of_the_metric():
    sample = SegDataSample(metainfo=dict(img_path='x.png'))
    sample.gt_sem_seg = PixelData(data=torch.tensor([[[0, 99, 1]]]))
    sample.pred_sem_seg = PixelData(data=torch.tensor([[[0, 0, 1]]]))
    hook, metrics = ScoresHook(0.3), [DumpResults('x.pkl'), IoUMetric(ignore_index=99)]
    runner = SimpleNamespace(
        test_dataloader=SimpleNamespace(dataset=Images()),
        test_evaluator=SimpleNamespace(metrics=metrics),
    )
    hook.after_test_iter(runner, outputs=[sample])
    assert hook.scores.per_image() == [1.0]
