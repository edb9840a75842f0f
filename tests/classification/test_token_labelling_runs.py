"""Runs with token labels through the programs, on drawn images with drawn labels."""

import json
import shutil

import pytest
import torch

from mmrest import RMT
from mmrest.datasets.shapes import CLASSES, write_classes
from mmrest.engine.config import load_config
from mmrest.engine.errors import UsageError
from mmrest.preflight import check_files
from tests.classification.networks import released_name
from tests.models.networks import TINY
from tests.tools.runs import ROOT, evaluate, train

CONFIG = f"""
_base_ = '{ROOT}/configs/imagenet_rmt_s_tl_310e.py'
arch = dict(_delete_=True, **{TINY[RMT]})
model = dict(
    backbone=dict(arch=arch),
    neck=dict(in_channels=32, out_channels=16),
    head=dict(in_channels=16, token_channels=16, num_classes=3, topk=(1,)),
)
data_preprocessor = dict(num_classes=3)
data = dict(type='CustomDataset', data_root='data/imagenet', _delete_=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TrackedResizedCrop', scale=64),
    dict(type='TrackedFlip', prob=0.5, direction='horizontal'),
    dict(
        type='TrackedRandAugment', policies='timm_increasing', num_policies=2, magnitude_level=9
    ),
    dict(
        type='LoadTokenLabels', label_root='data/imagenet/labels', num_classes=3, grid=2,
        relabel=True,
    ),
    dict(type='PackInputs', algorithm_keys=['token_label']),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
loader = dict(batch_size=4, num_workers=1, persistent_workers=False)
train_dataloader = dict(
    dataset=dict(data_prefix='train', pipeline=train_pipeline, **data), **loader
)
val_dataloader = dict(dataset=dict(data_prefix='val', pipeline=test_pipeline, **data), **loader)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
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
    # What evaluates needs no labels, and takes a file of the released form.
    shutil.rmtree(root / 'data' / 'imagenet' / 'labels')
    own = torch.load(run / 'epoch_1.pth', weights_only=False)['state_dict']
    released = {released_name(name).replace('head.aux_fc', 'aux_head'): own[name] for name in own}
    assert {'aux_head.weight', 'head.weight', 'norm.running_var'} < set(released)
    torch.save(dict(model=released), root / 'released.pth')
    evaluate('tiny.py', 'released.pth', '--work-dir', 'tested', cwd=root)
    (log,) = (root / 'tested').glob('*/*.json')
    assert [json.loads(log.read_text())['accuracy/top1']] == trained


def test_a_missing_file_ends_a_run_with_one_line(root):
    missing = next((root / 'data' / 'imagenet' / 'labels' / 'disc').iterdir())
    missing.unlink()
    done = train('tiny.py', cwd=root, check=False, fresh=True)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if 'error: ' in line]
    path = f'data/imagenet/labels/disc/{missing.name}'
    assert line.startswith(f'train.py: error: token labels {path} do not exist; give label_root')


def test_a_missing_folder_is_named_before_a_run(root, monkeypatch):
    monkeypatch.chdir(root)
    shutil.rmtree(root / 'data' / 'imagenet' / 'labels')
    message = (
        r'^folder of token labels \(train_dataloader\.dataset\.pipeline\.4\.label_root\) '
        r'data/imagenet/labels does not exist; give --data-root DIR'
    )
    cfg = load_config('tiny.py')
    with pytest.raises(UsageError, match=message):
        check_files(cfg, ('train', 'val'))
    check_files(cfg, ('test',))  # evaluation needs none
