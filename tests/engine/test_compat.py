"""All parts of mmengine and torch that mmrest patches or overrides exist as tested."""

import inspect

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader, checkpoint, runner
from mmengine.utils import get_object_from_string

from mmrest.checkpoint import CheckpointError
from mmrest.engine import compat


@pytest.mark.parametrize('name, arguments', [
    ('hooks.CheckpointHook._save_checkpoint_with_step', 'runner step meta'),
    ('hooks.CheckpointHook._save_best_checkpoint', 'runner metrics'),
    ('hooks.Hook._before_epoch', 'runner mode'),
    ('runner.EpochBasedTrainLoop.run', ''),
    ('runner.EpochBasedTrainLoop.run_iter', 'idx data_batch'),
    ('runner.EpochBasedTrainLoop._decide_current_val_interval', ''),
    ('runner.IterBasedTrainLoop.run', ''),
    ('runner.IterBasedTrainLoop.run_iter', 'data_batch'),
    ('runner.Runner.build_logger', 'log_level log_file kwargs'),
    ('_strategy.FSDPStrategy.load_optim_state_dict', 'state_dict'),
])  # fmt: skip
def test_overridden_methods(name, arguments):
    owner, _, method = name.rpartition('.')
    found = getattr(get_object_from_string(f'mmengine.{owner}'), method)
    assert list(inspect.signature(found).parameters) == ['self', *arguments.split()]


def test_inherited_configs(tmp_path, monkeypatch):
    """A flat name, one in a folder, and one of another package, also of a fork's distribution."""
    monkeypatch.setattr('mmengine.config.config.is_installed', 'mmsegmentation'.__ne__)
    assert inspect.signature(compat._get_cfg_path).parameters.keys() == {'cfg_path', 'filename'}
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'mmrest::maskrcnn_rmt_t_1x.py'\nmodel = dict(train_cfg=None)")
    cfg = Config.fromfile(path)
    assert cfg.model.backbone.type == 'RMT' and cfg.model.train_cfg is None
    assert cfg.model._scope_ == 'mmdet'
    for name in ('mmrest::swapped/atss_rmt_s', 'mmdet::atss/atss_r50_fpn_1x_coco.py'):
        path.write_text(f'_base_ = [{name!r}]\nx = _base_.model.neck')
        assert Config.fromfile(path).model.type == 'ATSS'
    path.write_text("_base_ = 'mmseg::_base_/models/fpn_r50.py'")
    assert Config.fromfile(path).model.type == 'EncoderDecoder'
    path.write_text("_base_ = 'mmrest::absent.py'")
    with pytest.raises(FileNotFoundError, match='absent'):
        Config.fromfile(path)


def test_file_access():
    """Every scheme is guarded, except for zoo names, which resolve to URLs."""
    compat.install_file_access()
    zoos = ('modelzoo', 'torchvision', 'open-mmlab', 'openmmlab', 'mmcls')
    for scheme, loader in CheckpointLoader._schemes.items():
        assert scheme.startswith(zoos) or loader is compat.load_from_guarded, scheme
    for name in ('load_from_torchvision', 'load_from_openmmlab', 'load_from_mmcls'):
        assert 'load_from_http' in inspect.getsource(getattr(checkpoint, name))
    assert 'file_backend.put(' in inspect.getsource(checkpoint.save_checkpoint)
    assert isinstance(get_file_backend('x.pth'), compat.AtomicLocalBackend)


def test_a_full_disk(tmp_path, monkeypatch):
    """A failed write keeps the existing file."""
    path = tmp_path / 'new' / 'x.pth'
    backend = compat.AtomicLocalBackend()
    backend.put(b'before', str(path))
    monkeypatch.setattr('os.replace', lambda *args: (_ for _ in ()).throw(OSError(28, 'No space')))
    with pytest.raises(CheckpointError, match='cannot be written'):
        backend.put(b'after', str(path))
    assert path.read_bytes() == b'before' and list(path.parent.iterdir()) == [path]


def test_private_state():
    source = inspect.getsource(runner.Runner)
    parts = (
        '_train_dataloader', '_val_dataloader', '_val_evaluator', '_train_loop', '_val_loop'
    )  # fmt: skip
    for name in ('_load_from', '_resume', *parts):
        assert f'self.{name} = ' in source
    assert 'default_worker_init_fn' in source
    assert 'self._iterator = ' in inspect.getsource(torch.utils.data.DataLoader)
    assert 'torch.cuda.set_device' in inspect.getsource(inspect.getmodule(runner.init_dist))


def test_cuda_device_is_not_selected():
    before = torch.cuda.set_device
    with compat.without_cuda_device():
        torch.cuda.set_device(7)
    assert torch.cuda.set_device is before
