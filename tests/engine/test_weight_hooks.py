"""Checkpoints of a run: local and remote ones pass the guard, and must cover the model."""

import functools
import http.server
import os
import threading
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader, checkpoint
from torch import nn

from mmrest import ResT
from mmrest.checkpoint import CheckpointError, read_checkpoint
from mmrest.engine.weight_hooks import InitWeightsHook, StrictWeightsHook
from tests.checkpoint.test_safety import Call
from tests.models.networks import TINY, equal, randomised, tiny


@pytest.fixture
def address(tmp_path):
    """URL of a local server for the files in tmp_path."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.mark.parametrize('is_remote', [False, True])
def test_files_pass_the_guard(is_remote, tmp_path, address, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    torch.save({'a': torch.ones(2), 'meta': {'config': 'run', 'epoch': 1}}, tmp_path / 'good.pth')
    torch.save([Call(os.system, f'touch {tmp_path}/witness')], tmp_path / 'bad.pth')
    torch.save([1], tmp_path / 'list.pth')
    folder = address if is_remote else tmp_path
    found = CheckpointLoader.load_checkpoint(f'{folder}/good.pth', 'cpu')
    assert torch.equal(found['a'], torch.ones(2))
    assert found['meta'] == {'epoch': 1}  # mmengine executes this text when it resumes
    for name, message in (
        ('bad', r'refusing to load \S*bad\.pth: it contains a pickled \S*system'),
        ('list', 'contains a list, not a checkpoint'),
        ('absent', r'absent\.pth ' + ('cannot be fetched' if is_remote else 'does not exist')),
    ):
        for loader in (CheckpointLoader.load_checkpoint, checkpoint.load_from_http):
            with pytest.raises(CheckpointError, match=message):
                loader(f'{folder}/{name}.pth')
    assert not (tmp_path / 'witness').exists()


def test_downloads(tmp_path, address, monkeypatch):
    """Each is kept under its whole address; one that was cut short is not kept."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    for number, folder in enumerate('ab'):
        (tmp_path / folder).mkdir()
        torch.save([number], tmp_path / folder / 'epoch_1.pth')
    whole = (tmp_path / 'b/epoch_1.pth').read_bytes()
    (tmp_path / 'b/epoch_1.pth').write_bytes(whole[:100])
    assert read_checkpoint(f'{address}/a/epoch_1.pth') == [0]
    with pytest.raises(CheckpointError, match=r'b/epoch_1\.pth cannot be read as a checkpoint'):
        read_checkpoint(f'{address}/b/epoch_1.pth')
    (tmp_path / 'b/epoch_1.pth').write_bytes(whole)
    (tmp_path / 'a/epoch_1.pth').unlink()  # it is read from the hub folder
    assert [read_checkpoint(f'{address}/{folder}/epoch_1.pth') for folder in 'ab'] == [[0], [1]]
    with pytest.raises(CheckpointError, match='cannot be fetched: UnicodeEncodeError'):
        read_checkpoint(f'{address}/modèle.pth')


def load(hook, model, content, **fields):
    """Return the content of x.pth after a hook of a runner with these fields."""
    content, logger = dict(content), MMLogger.get_current_instance()
    runner = SimpleNamespace(model=model, _load_from='x.pth', logger=logger, **fields)
    hook.after_load_checkpoint(runner, content)
    return content


STRICT, RESUMING = StrictWeightsHook(), StrictWeightsHook(resuming=True)


def test_a_checkpoint_must_cover_the_model():
    model = nn.Linear(2, 3)
    state = model.state_dict()
    load(STRICT, model, {'state_dict': state})
    load(STRICT, model, {f'module.{name}': t for name, t in state.items()})
    with pytest.raises(CheckpointError, match=r'^x\.pth for Linear .* 1 of 2 .*; pass the config'):
        load(STRICT, model, {'state_dict': {'weight': state['weight']}})
    with pytest.raises(CheckpointError, match=r'contains only weights, .*: drop --resume'):
        load(RESUMING, model, {'state_dict': state})
    detector = nn.ModuleDict(dict(backbone=model, head=nn.Linear(3, 1)))
    with pytest.raises(CheckpointError, match=r'only a backbone; .* --pretrained PATH'):
        load(STRICT, detector, {'model': state})


def test_the_log_names_what_was_loaded(log):
    model = nn.Linear(2, 3)
    averaged = dict(model.state_dict(), extra=torch.ones(1))
    load(STRICT, model, {'model': model.state_dict(), 'model_ema': averaged})
    assert '2 of 2 tensors loaded from x.pth (model_ema, not model)' in log.text
    assert '1 of the file are not in the network and ignored (extra)' in log.text


@pytest.mark.parametrize('noted', [
    {'dataset_meta': {'classes': ['disc', 'square']}}, {'CLASSES': ('disc', 'square')},
])  # fmt: skip
@pytest.mark.parametrize('classes, warning', [
    (('disc', 'square'), ''),
    (('square', 'disc'), "class 0 is 'disc', not 'square', class 1 is 'square', not 'disc'; met"),
    (None, ''),  # of a dataset that has none
    (('disc',), 'than test_dataloader.dataset: it was trained on 2 classes, not 1; metrics'),
])  # fmt: skip
def test_classes_of_a_test(noted, classes, warning, log):
    """Warn if they differ from the checkpoint."""
    model = nn.Linear(2, 3)
    dataset = SimpleNamespace(metainfo=dict(classes=classes))
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    load(STRICT, model, {'meta': noted, 'state_dict': model.state_dict()}, test_loop=loop)
    warnings = [record.message for record in log.records if record.levelname == 'WARNING']
    assert len(warnings) == bool(warning) and warning in ''.join(warnings)


def test_resume_does_not_use_ema_weights():
    model = nn.Linear(2, 3)
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    content = {'meta': {'epoch': 1}, 'state_dict': state, 'state_dict_ema': model.state_dict()}
    assert equal(load(RESUMING, model, content)['state_dict'], state)


class Detector(nn.Module):
    def __init__(self, classes=2, init_cfg=None):
        super().__init__()
        self.backbone = tiny(ResT, init_cfg=init_cfg)
        self.neck = nn.Linear(2, 3)
        self.head = nn.Linear(3, classes)


def test_a_test_of_a_deeper_network():
    """Its weights cover the model, but are for another one."""
    deeper = Detector()
    deeper.backbone = ResT(dict(TINY[ResT], depths=(1, 3, 1, 1)))
    with pytest.raises(CheckpointError, match='belong to layers that the model does not have'):
        load(STRICT, Detector(), {'state_dict': deeper.state_dict()})


def initialised(model, content):
    """Return the state of `model` after it was initialised from the content of a file."""
    state = load(InitWeightsHook(), model, content)['state_dict']
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    return model.state_dict()


def test_init_from_a_detector_of_other_classes(log):
    other = randomised(Detector(classes=5)).state_dict()
    state = initialised(Detector(), {'state_dict': other, 'meta': {}})
    assert equal(state, other, 'backbone.') and equal(state, other, 'neck.')
    record = log.records[-1]
    assert record.levelname == 'WARNING'
    assert '2 have another shape in the file and keep their initial values (h' in record.message


@pytest.mark.parametrize('prefix', ['', 'backbone.bottom_up.', 'module.'])
def test_init_from_a_backbone(prefix, log):
    """As of a classifier, which lacks norms of outputs."""
    other = randomised(tiny(ResT)).state_dict()
    other = {name: tensor for name, tensor in other.items() if not name.startswith('norm1.')}
    content = {'model_ema': {prefix + name: tensor for name, tensor in other.items()}}
    state = initialised(Detector(), content)
    assert equal({f'backbone.{name}': tensor for name, tensor in other.items()}, state)
    assert '6 are not in the file and keep their initial values (backbone.norm1.w' in log.text


class Teacher(nn.Module):
    """As mmdet's SemiBaseDetector, which loads a detector."""

    def __init__(self):
        super().__init__()
        self.teacher = Detector()

    def _load_from_state_dict(self, state_dict, *args):
        for name in list(state_dict):
            state_dict[f'teacher.{name}'] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, *args)


def test_init_of_a_model_that_renames_tensors(log):
    other = randomised(Detector()).state_dict()
    state = load(InitWeightsHook(), Teacher(), {'state_dict': other})['state_dict']
    assert equal(state, other) and 'Teacher renames the tensors of x.pth' in log.text
    for model in (Teacher(), nn.Linear(2, 3)):
        with pytest.raises(CheckpointError, match=r'^0 of \d+ tensors loaded from x\.pth'):
            load(InitWeightsHook(), model, {'state_dict': {'wrong.weight': torch.ones(7)}})
