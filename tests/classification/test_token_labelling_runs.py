"""Runs with token labels on synthetic images, and the script that makes labels."""

import json
import runpy
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmpretrain import get_model

from mmrest import RMT
from mmrest.classification.token_maps import read_token_map
from mmrest.datasets.shapes import CLASSES, write_classes
from tests.classification.networks import SHAPES
from tests.models.networks import TINY
from tests.runs import ROOT, evaluate, run_here, train

CONFIG = f"""
_base_ = '{ROOT}/configs/imagenet_rmt_s_tl_310e.py'
arch = dict(_delete_=True, **{TINY[RMT]})
model = dict(
    backbone=dict(arch=arch),
    neck=dict(in_channels=32, out_channels=16),
    head=dict(in_channels=16, token_channels=16, num_classes=3, topk=(1,)),
)
_base_.train_pipeline[1]['scale'] = 64
_base_.train_pipeline[-2].update(label_root='data/imagenet/labels', num_classes=3, grid=2)
_base_.test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_cfg = dict(max_epochs=1)
{SHAPES}
"""


@pytest.fixture
def root(tmp_path):
    """A folder with a config, images of three classes, and labels of a 4 x 4 grid."""
    (tmp_path / 'tiny.py').write_text(CONFIG)
    write_classes(tmp_path / 'data', dict(train=12, val=6), 64, 64)
    for label, name in enumerate(CLASSES):
        folder = tmp_path / 'data' / 'imagenet' / 'labels' / name
        folder.mkdir(parents=True)
        scores = torch.zeros(2, 4, 4)
        scores[0, :, :2] = 8  # sure of the left half alone
        scores[1] = 1
        classes = torch.tensor([label, (label + 1) % 3])[:, None, None].expand(2, 4, 4)
        for image in (tmp_path / 'data' / 'imagenet' / 'train' / name).iterdir():
            torch.save(torch.stack([scores, classes]).half(), folder / f'{image.stem}.pt')
    return tmp_path


def test_an_epoch_and_an_evaluation(root):
    train('tiny.py', cwd=root)
    run = root / 'work_dirs' / 'tiny'
    (log,) = run.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line for line in lines if 'loss' in line]
    assert len(steps) == 3
    for step in steps:
        assert step['loss'] == pytest.approx(step['loss_cls'] + step['loss_dense'], rel=1e-3)
    trained = [line['accuracy/top1'] for line in lines if 'accuracy/top1' in line]
    shutil.rmtree(root / 'data' / 'imagenet' / 'labels')  # which an evaluation does not need
    evaluate('tiny.py', run / 'epoch_1.pth', '--work-dir', 'tested', cwd=root)
    (log,) = (root / 'tested').glob('*/*.json')
    assert [json.loads(log.read_text())['accuracy/top1']] == trained


def test_a_missing_file_ends_a_run_with_one_line(root, monkeypatch):
    monkeypatch.chdir(root)
    missing = next(Path('data/imagenet/labels/disc').iterdir())
    missing.unlink()
    line = run_here('train', 'tiny.py')
    assert line.startswith(f'train.py: error: token labels {missing} not found; set label_root')
    assert '\n' not in line


TEACHER = f"""
_base_ = '{ROOT}/configs/imagenet_rmt_b_300e.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{TINY[RMT]})),
    neck=dict(in_channels=32, out_channels=16),
    head=dict(in_channels=16, num_classes=9),
)
data_preprocessor = dict(num_classes=9)
"""


def test_script_of_the_document(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'imagenet_rmt_b_300e.py').write_text(TEACHER)
    teacher = get_model('configs/imagenet_rmt_b_300e.py').eval()
    torch.save(teacher.state_dict(), 'rmt_b.pth')
    folder = tmp_path / 'data' / 'imagenet' / 'train' / 'n01440764'
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ('n01440764_1.JPEG', 'n01440764_2.JPEG'):
        content = cv2.imencode('.jpg', rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))[1]
        (folder / name).write_bytes(content.tobytes())
    runpy.run_path(str(ROOT / 'docs' / 'assets' / 'label_tokens.py'))
    made = tmp_path / 'data' / 'imagenet' / 'label_top5_train_nfnet' / 'n01440764'
    assert sorted(path.name for path in made.iterdir()) == ['n01440764_1.pt', 'n01440764_2.pt']
    scores, classes = read_token_map(str(made / 'n01440764_2.pt'), 9)
    assert scores.shape == classes.shape == (5, 14, 14)
    image = cv2.resize(cv2.imread(str(folder / 'n01440764_2.JPEG')), (448, 448))
    normed = (image[:, :, ::-1] - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    with torch.no_grad():
        maps = teacher.backbone(torch.from_numpy(normed).permute(2, 0, 1)[None].float())
        logits = teacher.head.fc(teacher.neck.project(maps[-1])[0].permute(1, 2, 0))
    best = logits.topk(5)
    torch.testing.assert_close(scores.permute(1, 2, 0), best.values, rtol=1e-2, atol=1e-3)
    assert (classes.permute(1, 2, 0) == best.indices).float().mean() > 0.95
