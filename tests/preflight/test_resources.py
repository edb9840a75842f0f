"""Disk space for the checkpoints of a run, and shared memory for its batches."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from mmrest.errors import UsageError
from mmrest.preflight import Report
from mmrest.preflight.resources import check_disk, check_shared_memory

WEIGHTS = 4000
"""Bytes of the weights of the network below; AdamW has two moments of the same size."""

EPOCHS = dict(max_epochs=12)
ITERATIONS = dict(max_iters=103)


@pytest.fixture
def assert_needed(tmp_path, monkeypatch):
    """Function that checks that some free bytes are enough for a run, and one less is not."""

    def check(size, number, checkpoint, loop=EPOCHS, optimizer='AdamW', trained=True):
        cfg = dict(work_dir=str(tmp_path), train_cfg=loop)
        cfg['default_hooks'] = dict(checkpoint=checkpoint)
        cfg['optim_wrapper'] = dict(optimizer=dict(type=optimizer))
        model, report = nn.Linear(1000, 1, bias=False).requires_grad_(trained), Report()
        disk = SimpleNamespace(free=size)
        monkeypatch.setattr(shutil, 'disk_usage', lambda _: disk)
        check_disk(Config(cfg), model, 5, report)
        assert report.facts[0].found.startswith(f'{number} of ')
        disk.free -= 1
        message = rf'not enough disk .* \({number} of .*max_keep_ckpts=1'
        with pytest.raises(UsageError, match=message):
            check_disk(Config(cfg), model, 5, report)

    return check


@pytest.mark.parametrize('loop, checkpoint, number', [
    (EPOCHS, dict(interval=1), 12),
    (EPOCHS, dict(interval=5), 3),
    (EPOCHS, dict(interval=5, save_last=False), 2),
    (EPOCHS, dict(interval=-1), 1),
    (EPOCHS, dict(interval=2, save_begin=9), 3),
    (EPOCHS, dict(interval=1, max_keep_ckpts=3), 4),
    (EPOCHS, dict(interval=6, max_keep_ckpts=3), 2),
    (EPOCHS, dict(interval=1, save_best='mIoU'), 14),
    (EPOCHS, dict(interval=20, by_epoch=False), 3),
    (ITERATIONS, dict(interval=50, by_epoch=False), 3),
    (ITERATIONS, dict(interval=7), 1),
    (ITERATIONS, dict(interval=7, save_best=['a', 'b']), 4),
    (EPOCHS, {}, 12),
    (dict(max_epochs=12.0), dict(interval=5.0, save_last=None), 2),
])  # fmt: skip
def test_checkpoints(assert_needed, loop, checkpoint, number):
    assert_needed(number * 3 * WEIGHTS, number, checkpoint, loop)


def test_existing_checkpoints_are_not_counted_again(assert_needed, tmp_path):
    for epoch in range(10):
        (tmp_path / f'epoch_{epoch + 1}.pth').touch()
    assert_needed(2 * 3 * WEIGHTS, 12, dict(interval=1))


def test_size_of_a_checkpoint(assert_needed):
    once = dict(interval=-1)
    assert_needed(2 * WEIGHTS, 1, once, optimizer='SGD')
    assert_needed(WEIGHTS, 1, once, optimizer='SGD', trained=False)
    assert_needed(WEIGHTS, 1, dict(once, save_optimizer=False))


@pytest.mark.parametrize('workers, batch_size', [(2, 4), (2, [1, 3]), (0, 4)])
def test_shared_memory(monkeypatch, workers, batch_size):
    """Two workers prefetch two batches each, of four images of 30 bytes."""
    loader = DataLoader([0] * 8, batch_size=4, num_workers=workers)
    loader.batch_sampler.batch_size = batch_size
    shared = SimpleNamespace(free=2 * 2 * 4 * 30)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: shared)
    monkeypatch.setattr('os.path.isdir', lambda _: True)
    report, sample = Report(), dict(inputs=torch.zeros(3, 2, 5, dtype=torch.uint8))
    check_shared_memory(loader, sample, report)
    assert not report.warnings
    shared.free -= 1
    check_shared_memory(loader, sample, report)
    assert [w.count('2 workers of train_dataloader prefetch 4') for w in report.warnings] == (
        [1] if workers else []
    )
