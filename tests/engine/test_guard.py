"""Checkpoints of a run: local and remote ones pass the guard, and must cover the model."""

import functools
import http.server
import os
import threading
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import CheckpointLoader, checkpoint
from torch import nn

from mmrest.checkpoint import CheckpointError
from mmrest.engine.guard import WholeWeightsHook, guard_checkpoints


@pytest.fixture(autouse=True)
def guarded(monkeypatch, tmp_path):
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    monkeypatch.setattr(checkpoint, 'load_from_http', checkpoint.load_from_http)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    guard_checkpoints()


@pytest.fixture
def address(tmp_path):
    """Address of a server, on this machine, of the files in tmp_path."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


class Command:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_remote_files_pass_the_guard(tmp_path, address):
    torch.save({'state_dict': {'a': torch.ones(2)}}, tmp_path / 'good.pth')
    torch.save([Command(f'touch {tmp_path}/witness')], tmp_path / 'bad.pth')
    found = CheckpointLoader.load_checkpoint(f'{address}/good.pth', 'cpu')
    assert torch.equal(found['state_dict']['a'], torch.ones(2))
    with pytest.raises(CheckpointError, match=r'bad\.pth is refused: it would build a \S*system'):
        CheckpointLoader.load_checkpoint(f'{address}/bad.pth', 'cpu')
    with pytest.raises(CheckpointError, match='is refused'):
        checkpoint.load_from_http(f'{address}/bad.pth')
    assert not (tmp_path / 'witness').exists()
    with pytest.raises(CheckpointError, match=r'absent\.pth cannot be downloaded'):
        CheckpointLoader.load_checkpoint(f'{address}/absent.pth', 'cpu')


def test_every_scheme_is_guarded():
    names = {scheme: loader.__name__ for scheme, loader in CheckpointLoader._schemes.items()}
    resolved = {'load_from_torchvision', 'load_from_openmmlab', 'load_from_mmcls'}
    assert set(names.values()) - resolved == {'load_from_guarded'}
    with pytest.raises(CheckpointError, match=r'petrel://x\.pth cannot be fetched'):
        CheckpointLoader.load_checkpoint('petrel://x.pth')


def test_local_files_pass_the_guard(tmp_path):
    torch.save([Command(f'touch {tmp_path}/witness')], tmp_path / 'bad.pth')
    with pytest.raises(CheckpointError, match='is refused'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'bad.pth'))
    assert not (tmp_path / 'witness').exists()
    torch.save([1], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='holds a list, not a checkpoint'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'list.pth'))


def test_a_checkpoint_must_cover_the_model():
    model = nn.Linear(2, 3)
    runner, hook = SimpleNamespace(model=model, _load_from='x.pth'), WholeWeightsHook()
    state = model.state_dict()
    hook.after_load_checkpoint(runner, {'state_dict': state})
    hook.after_load_checkpoint(runner, {f'module.{name}': t for name, t in state.items()})
    with pytest.raises(CheckpointError, match=r'^x\.pth for Linear .* 1 of 2 .*; give the config'):
        hook.after_load_checkpoint(runner, {'state_dict': {'weight': state['weight']}})
    with pytest.raises(CheckpointError, match='it holds weights alone: leave --resume out'):
        WholeWeightsHook(resuming=True).after_load_checkpoint(runner, {'state_dict': state})


@pytest.mark.parametrize('container', [None, 'state_dict', 'model'])
def test_a_backbone_alone(container):
    """What its authors released for a backbone, given for a whole detector."""
    detector = nn.ModuleDict(dict(backbone=nn.Linear(2, 3), head=nn.Linear(3, 1)))
    runner = SimpleNamespace(model=detector, _load_from='x.pth')
    state = detector['backbone'].state_dict()
    with pytest.raises(CheckpointError, match=r'holds a backbone alone, .*: --pretrained PATH'):
        WholeWeightsHook().after_load_checkpoint(
            runner, state if container is None else {container: state}
        )
