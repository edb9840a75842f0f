"""Length of a run, and disk space for its checkpoints."""

import shutil
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch import nn

from mmrest.errors import UsageError
from mmrest.preflight import Report
from mmrest.preflight.resources import check_disk, check_schedule, check_writable

EACH = 3 * 4000
"""Bytes of a checkpoint of the network below: weights and two moments."""


def network():
    return nn.Linear(1000, 1, bias=False)


def run_of(tmp_path, checkpoint, optimizer='AdamW', **fields):
    return Config(
        dict(
            work_dir=str(tmp_path),
            default_hooks=dict(checkpoint=checkpoint),
            optim_wrapper=dict(optimizer=dict(type=optimizer)),
            **fields,
        )
    )


EPOCHS = dict(max_epochs=12)
ITERATIONS = dict(max_iters=103)


@pytest.mark.parametrize(
    'loop, checkpoint, number',
    [
        (EPOCHS, dict(interval=1), 12),
        (EPOCHS, dict(interval=5), 3),
        (EPOCHS, dict(interval=5, save_last=False), 2),
        (EPOCHS, dict(interval=-1), 1),
        (EPOCHS, dict(interval=1, max_keep_ckpts=3), 4),
        (EPOCHS, dict(interval=6, max_keep_ckpts=3), 2),
        (EPOCHS, dict(interval=1, save_best='mIoU'), 14),
        (EPOCHS, dict(interval=20, by_epoch=False), 3),
        (ITERATIONS, dict(interval=50, by_epoch=False), 3),
        (ITERATIONS, dict(interval=7), 1),
        (ITERATIONS, dict(interval=7, save_best=['a', 'b']), 4),
        (EPOCHS, {}, 12),
    ],
)
def test_checkpoints(tmp_path, monkeypatch, loop, checkpoint, number):
    """Exactly their size is enough, one byte less is not."""
    cfg = run_of(tmp_path, checkpoint, train_cfg=loop)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=number * EACH))
    report = Report()
    check_disk(cfg, network(), 5, report)
    assert report.facts[0].found.startswith(f'{number} of ')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=number * EACH - 1))
    with pytest.raises(UsageError, match=rf'not enough disk .* \({number} of .*max_keep_ckpts=2'):
        check_disk(cfg, network(), 5, report)


def test_existing_checkpoints_are_not_counted_again(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=2 * EACH))
    cfg = run_of(tmp_path, dict(interval=1), train_cfg=EPOCHS)
    with pytest.raises(UsageError):
        check_disk(cfg, network(), 5, Report())
    for epoch in range(10):
        (tmp_path / f'epoch_{epoch + 1}.pth').touch()
    check_disk(cfg, network(), 5, Report())


@pytest.mark.parametrize(
    'optimizer, trained, size', [('AdamW', True, 12000), ('SGD', True, 8000), ('SGD', False, 4000)]
)
def test_size_of_a_checkpoint(tmp_path, monkeypatch, optimizer, trained, size):
    model = network().requires_grad_(trained)
    cfg = run_of(tmp_path, dict(interval=-1), optimizer, train_cfg=EPOCHS)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=size))
    check_disk(cfg, model, 5, Report())
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=size - 1))
    with pytest.raises(UsageError):
        check_disk(cfg, model, 5, Report())


def test_work_dir_without_write_permission(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    assert check_writable(str(tmp_path / 'a' / 'b')) == tmp_path
    with pytest.raises(UsageError, match=r'file is not a folder; use another --work-dir'):
        check_writable(str(tmp_path / 'file' / 'a'))
    # Root may write anywhere: what the system says of others is made up.
    monkeypatch.setattr('os.access', lambda path, mode: False)
    with pytest.raises(UsageError, match='is not writable; use another --work-dir'):
        check_writable(str(tmp_path / 'a'))
    assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize('end, warns', [(40, False), (500, True)])
def test_schedule(end, warns):
    cfg = Config(
        dict(
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4)),
            param_scheduler=[dict(type='LinearLR', begin=0, end=end, by_epoch=False)],
            auto_scale_lr=dict(base_batch_size=16),
            train_cfg=dict(max_epochs=3),
            train_dataloader=dict(batch_size=2),
        )
    )
    report = Report()
    check_schedule(cfg, 100, report)
    found = dict(report.facts)
    assert found['iterations per epoch'] == '100'
    assert found['length'] == '3 epochs' and found['batch'] == '2 x 1 process(es)'
    assert found['optimizer'] == 'AdamW, lr 0.0001 (for an effective batch size of 16)'
    assert found['schedule'] == f'LinearLR 0 to {end} (iterations)'
    assert bool(report.warnings) == warns
    assert not warns or 'takes 500 of the 300 iterations' in report.warnings[0]
