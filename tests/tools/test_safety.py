"""Files that would run a command are refused by every program, and the command is not run."""

import builtins
import os
import pickle
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch

from mmrest import ResT
from mmrest.checkpoint import CheckpointError, read_checkpoint, reading
from mmrest.engine.compat import load_guarded
from tests.models.networks import tiny
from tests.tools.runs import DETECTOR, ROOT


class Call:
    """Unpickles by a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call

    def __call__(self):
        """pickle wants what is called to be callable."""


class Reducing:
    """A class whose own __reduce__ runs something on loading."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (self.witness,)


def by_getattr(witness):
    """``getattr(__import__('os'), 'mkdir')(witness)``."""
    return Call(Call(getattr, Call(builtins.__import__, 'os'), 'mkdir'), witness)


PAYLOADS = {
    'os.system': lambda witness: Call(os.system, f'mkdir {witness}'),
    'subprocess': lambda witness: Call(subprocess.check_call, ['mkdir', witness]),
    'eval': lambda witness: Call(eval, f"__import__('os').mkdir('{witness}')"),
    'exec': lambda witness: Call(exec, f"import os; os.mkdir('{witness}')"),
    'getattr': by_getattr,
    '__reduce__': Reducing,
    'nested': lambda witness: Call(list, Call(map, os.mkdir, [witness])),
}


def containers(payload):
    """Where a file may hide it."""
    state = tiny(ResT).state_dict()
    named = {f'backbone.bottom_up.{name}': tensor for name, tensor in state.items()}
    mm = {f'backbone.{name}': tensor for name, tensor in state.items()}
    return {
        'tensors': {**state, 'extra': payload},
        'optimizer': {'model': state, 'optimizer': {'state': {0: {'step': payload}}}},
        'detectron2': {'model': named, '__author__': payload, 'iteration': 7},
        'mmdet': {'meta': {'hook_msgs': payload}, 'state_dict': mm},
        'key': {'model': state, 'names': {('a', payload): 1}},
    }


def with_arrays(content):
    """The same with numpy's arrays in the place of tensors."""
    if isinstance(content, dict):
        return {name: with_arrays(value) for name, value in content.items()}
    return content.numpy() if isinstance(content, torch.Tensor) else content


@pytest.fixture(params=['guard of torch', 'guard for torch before 2.6'])
def guard(request, monkeypatch):
    if request.param != 'guard of torch':
        monkeypatch.setattr(reading, '_torch_has_allowlist', lambda: False)


@pytest.mark.parametrize('container', containers(None))
@pytest.mark.parametrize('kind', PAYLOADS)
@pytest.mark.parametrize('form', ['zip', 'legacy', 'pickle'])
def test_reading(kind, container, form, guard, tmp_path):
    witness, path = tmp_path / 'witness', tmp_path / 'x.pth'
    content = containers(PAYLOADS[kind](str(witness)))[container]
    if form == 'pickle':
        path.write_bytes(pickle.dumps(with_arrays(content)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == 'zip')
    with pytest.raises(CheckpointError, match=r'x\.pth (is refused|cannot be read)') as error:
        read_checkpoint(str(path))
    assert '\n' not in str(error.value)
    assert not witness.exists()


def test_the_payloads_work(tmp_path):
    """What is refused above would have run."""
    for number, (kind, payload) in enumerate(PAYLOADS.items()):
        witness = tmp_path / str(number)
        torch.save([payload(str(witness))], tmp_path / 'x.pth')
        torch.load(tmp_path / 'x.pth', weights_only=False)
        assert witness.exists(), kind


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp('safety')
    (home / 'tiny.py').write_text(DETECTOR)
    return home


ROUTES = {
    'Pretrained': (
        'train',
        ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=x.pth'],
    ),
    '--pretrained': ('train', ['--pretrained', 'x.pth']),
    'load_from': ('train', ['load_from=x.pth']),
    '--resume': ('train', ['--resume', 'x.pth']),
    'test': ('test', ['x.pth']),
    'convert_checkpoint': ('convert_checkpoint', ['x.pth', 'y.pth']),
    'publish_model': ('publish_model', ['x.pth', 'y.pth']),
}


def line_of(program, args, home, monkeypatch, capsys):
    """The line that a program ends with."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, 'argv', [f'{program}.py', *map(str, args)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'tools' / f'{program}.py'), run_name='__main__')
    return end.value.code


@pytest.mark.parametrize('kind, container', [('os.system', 'mmdet'), ('getattr', 'optimizer')])
@pytest.mark.parametrize('route', ROUTES)
def test_programs(route, kind, container, home, coco_root, tmp_path, monkeypatch, capsys):
    witness = tmp_path / 'witness'
    torch.save(containers(PAYLOADS[kind](str(witness)))[container], home / 'x.pth')
    program, args = ROUTES[route]
    if program in ('train', 'test'):
        options = [arg for arg in args if '=' in arg]
        args = ['tiny.py', *(arg for arg in args if '=' not in arg)]
        args += ['--data-root', coco_root, '--work-dir', tmp_path / 'run']
        args += ['--cfg-options', *options] if options else []
    line = line_of(program, args, home, monkeypatch, capsys)
    assert 'x.pth is refused: it would build a ' in line and '\n' not in line
    assert not witness.exists()
    assert not list(home.glob('y*'))


def test_a_config_inside_a_checkpoint_is_not_run(home, coco_root, tmp_path, monkeypatch, capsys):
    """On resuming, mmengine runs the text of older checkpoints as a Python program."""
    witness = tmp_path / 'witness'
    content = {
        'meta': {'config': f"import os\nos.mkdir('{witness}')\n", 'epoch': 1, 'iter': 2},
        'state_dict': {'a': torch.ones(1)},
    }
    torch.save(content, home / 'x.pth')
    args = ['tiny.py', '--data-root', coco_root, '--resume', 'x.pth', '--work-dir', tmp_path / 'r']
    line = line_of('train', args, home, monkeypatch, capsys)
    assert 'x.pth for MaskRCNN does not fit' in line
    assert 'config' not in load_guarded(str(home / 'x.pth'))['meta']
    assert not witness.exists()


@pytest.mark.parametrize('code', ['O8', 'V8', 'M8', 'i4,O8'])
@pytest.mark.parametrize('form', ['pickle', 'zip', 'legacy'])
def test_arrays_of_addresses(code, form, guard, tmp_path):
    """Bytes of a file that numpy would take for the addresses of objects."""
    path = tmp_path / 'x.pth'

    class Dtype:
        def __reduce__(self):
            return np.dtype, (code, False, True), (3, '|', None, None, None, -1, -1, 1)

    class Array:
        def __reduce__(self):
            state = (1, (1,), Dtype(), False, b'\x08' * 8)
            return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b'b'), state

    content = {'model': {'a': Array()}}
    if form == 'pickle':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == 'zip')
    with pytest.raises(CheckpointError, match=r'x\.pth (is refused|cannot be read)'):
        read_checkpoint(str(path))


def test_a_torchscript_program(guard, tmp_path):
    torch.jit.script(torch.nn.Linear(2, 3)).save(str(tmp_path / 'x.pth'))
    with pytest.raises(CheckpointError, match=r'x\.pth is refused: it is a TorchScript program'):
        read_checkpoint(str(tmp_path / 'x.pth'))
