"""Room on the disk and in memory, in figures."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmrest.engine.checks import room
from mmrest.engine.checks.files import check_writable
from mmrest.engine.checks.plan import Plan, plan
from mmrest.engine.checks.room import check_disk, check_memory, largest_image
from mmrest.engine.config import load_config
from mmrest.engine.errors import UsageError
from tests.tools.runs import ROOT

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


EPOCHS = Plan(batch=2, processes=1, iterations=5, length=12, by_epoch=True)
ITERATIONS = Plan(batch=2, processes=1, iterations=5, length=103, by_epoch=False)


@pytest.mark.parametrize(
    'planned, checkpoint, number',
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
        (ITERATIONS, dict(interval=7), 3),
    ],
)
def test_checkpoints(tmp_path, monkeypatch, planned, checkpoint, number):
    """As many bytes as they take are enough, and one less is not."""
    cfg = run_of(tmp_path, checkpoint)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=number * EACH))
    (fact,) = check_disk(cfg, network(), planned, tmp_path)
    assert fact.found.startswith(f'{number} of ')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=number * EACH - 1))
    with pytest.raises(UsageError, match=rf'has no room .* \({number} of .*max_keep_ckpts=2'):
        check_disk(cfg, network(), planned, tmp_path)


def test_those_that_are_there_are_not_counted_again(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=2 * EACH))
    cfg = run_of(tmp_path, dict(interval=1))
    with pytest.raises(UsageError):
        check_disk(cfg, network(), EPOCHS, tmp_path)
    for epoch in range(10):
        (tmp_path / f'epoch_{epoch + 1}.pth').touch()
    check_disk(cfg, network(), EPOCHS, tmp_path)


def test_what_a_checkpoint_holds(tmp_path):
    frozen = network().requires_grad_(False)
    assert room.sizes(run_of(tmp_path, {}), network()) == (4000, 4000, 8000)
    assert room.sizes(run_of(tmp_path, {}, 'SGD'), network()) == (4000, 4000, 4000)
    assert room.sizes(run_of(tmp_path, {}), frozen) == (4000, 0, 0)


def test_a_work_dir_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    assert check_writable(str(tmp_path / 'a' / 'b')) == tmp_path
    with pytest.raises(UsageError, match=r'file is not a folder; give another --work-dir'):
        check_writable(str(tmp_path / 'file' / 'a'))
    # Root may write anywhere: what the system says of others is made up.
    monkeypatch.setattr('os.access', lambda path, mode: False)
    with pytest.raises(UsageError, match='cannot be written to; give another --work-dir'):
        check_writable(str(tmp_path / 'a'))
    assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize(
    'name, wanted',
    [
        ('maskrcnn_rmt_s_3x', (800, 1333)),
        ('retinanet_rest_lite_1x', (800, 1333)),
        ('upernet_rmt_t_160k', (512, 512)),
    ],
)
def test_largest_image(name, wanted):
    assert largest_image(load_config(str(ROOT / 'configs' / f'{name}.py'))) == wanted


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1, bias=False)

    def extract_feat(self, x):
        return self.conv(x).relu()


def test_memory(monkeypatch):
    """The convolution keeps the image, the ReLU its result."""
    step = dict(type='Resize', scale=(64, 32))
    loader = dict(batch_size=2, dataset=dict(pipeline=[step]))
    cfg = Config(dict(model={}, train_dataloader=loader))
    with torch.device('meta'):
        model = Network()
    assert room._kept_for_backward(model, 2, 32, 64) == 2 * 32 * 64 * (3 + 8) * 4
    planned = plan(cfg, {})
    monkeypatch.setattr(room, '_memory', lambda: ('it', 10**9))
    (fact,) = check_memory(cfg, model, planned)
    assert '2 image(s) of 32 x 64' in fact.found and 'MAY NOT' not in fact.found
    monkeypatch.setattr(room, '_memory', lambda: ('it', 10**4))
    assert 'IT MAY NOT FIT' in check_memory(cfg, model, planned)[0].found
    monkeypatch.setattr(room, '_memory', lambda: ('it', 100))
    with pytest.raises(UsageError, match='it has 0 MiB; choose a smaller network'):
        check_memory(cfg, model, planned)
    monkeypatch.setattr(room, '_memory', lambda: ('it', None))
    assert 'it cannot be asked' in check_memory(cfg, Network(), planned)[0].found
