"""tools/train.py --dry-run: findings without files; for faults, see test_bad_input."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from tests.configs.test_recipes import ALL, DETECTORS
from tests.runs import DETECTOR, ROOT, SEGMENTOR, lay_out, run_here


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """Return a function that rehearses a config, next to weights, and returns its output."""
    monkeypatch.chdir(tmp_path)

    def dry_run(config, root, *args):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
        status = run_here('train', config, '--data-root', root, '--dry-run', *args)
        output = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
        assert status == 0 and 'passed all checks' in output, (config, status)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == before
        return output

    return dry_run


RESUMED = ('--pretrained', 'tiny.pth', '--work-dir', 'new', '--resume')


@pytest.mark.parametrize('text, data, options, findings', [
    (DETECTOR, 'coco_root', RESUMED, [
        'classes of train_dataloader.dataset 3: person, bicycle, car',
        'images of train_dataloader.dataset 4 used of 4',
        'objects of train_dataloader.dataset 12 used of 12',
        'val_evaluator on the ground truth coco/segm_mAP 1.000', 'first step loss ',
        'tensors loaded from tiny.pth, backbone.*', 'batch 2 x 1 process',
        'iterations per epoch 2', 'length 1 epochs', 'optimizer AdamW, lr 0.0001', 'are free',
        'starting from scratch',
    ]),
    (SEGMENTOR, 'ade_root', (), [
        '150: wall, building, sky, …', 'length 2 iterations', 'first step loss',
        'val_evaluator on the ground truth mIoU 100.000',
    ]),
])  # fmt: skip
def test_findings(dry_run, tmp_path, request, text, data, options, findings):
    """With --resume but no checkpoint, the run starts as without --resume."""
    lay_out(tmp_path, tiny=text)
    output = dry_run('tiny.py', request.getfixturevalue(data), *options)
    assert [finding for finding in findings if finding not in output] == []


@pytest.mark.slow
def test_every_config(dry_run, monkeypatch, photographs):
    """Run in one process; each config trains a step with its own network."""
    # The largest keep 65 GiB, which not every machine that tests has.
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=2**40))
    for config in ALL:
        root = 'coco' if config[0] in DETECTORS else 'ade/ADEChallengeData2016'
        dry_run(ROOT / 'configs' / f'{"_".join(config)}.py', photographs / root)
        assert torch.initial_seed() == 0
