"""Files that would run a command on loading are refused, and the command is not run.

That every command reads through this guard is in tests/cli/test_bad_input.py.
"""

import builtins
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch

from mmrest import ResT
from mmrest.checkpoint import CheckpointError, read_checkpoint, reading
from tests.models.networks import tiny


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


def refused(content, form, path):
    """Write a file in one of three forms, and return the message with which it is refused."""
    if form == 'pickle':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == 'zip')
    with pytest.raises(CheckpointError, match=r'x\.pth (is refused|cannot be read)') as error:
        read_checkpoint(str(path))
    return str(error.value)


forms = pytest.mark.parametrize('form', ['zip', 'legacy', 'pickle'])


@pytest.fixture(params=['guard of torch', 'guard for torch before 2.6'])
def guard(request, monkeypatch):
    if request.param != 'guard of torch':
        monkeypatch.setattr(reading, '_torch_has_allowlist', lambda: False)


CONTAINERS = list(containers(None))
# Every payload in turn in another container, and the least visible one in all.
CASES = [
    *((kind, CONTAINERS[i % len(CONTAINERS)]) for i, kind in enumerate(PAYLOADS)),
    *(('getattr', container) for container in CONTAINERS),
]


@pytest.mark.parametrize('kind, container', CASES)
@forms
def test_reading(kind, container, form, guard, tmp_path):
    witness = tmp_path / 'witness'
    content = containers(PAYLOADS[kind](str(witness)))[container]
    assert '\n' not in refused(content, form, tmp_path / 'x.pth')
    assert not witness.exists()


def test_the_payloads_work(tmp_path):
    """What is refused above would have run."""
    for number, (kind, payload) in enumerate(PAYLOADS.items()):
        witness = tmp_path / str(number)
        torch.save([payload(str(witness))], tmp_path / 'x.pth')
        torch.load(tmp_path / 'x.pth', weights_only=False)
        assert witness.exists(), kind


@pytest.mark.parametrize('code', ['O8', 'V8', 'M8', 'i4,O8'])
@forms
def test_arrays_of_addresses(code, form, guard, tmp_path):
    """Bytes of a file that numpy would take for the addresses of objects."""

    class Dtype:
        def __reduce__(self):
            return np.dtype, (code, False, True), (3, '|', None, None, None, -1, -1, 1)

    class Array:
        def __reduce__(self):
            state = (1, (1,), Dtype(), False, b'\x08' * 8)
            return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b'b'), state

    refused({'model': {'a': Array()}}, form, tmp_path / 'x.pth')


def test_a_torchscript_program(guard, tmp_path):
    torch.jit.script(torch.nn.Linear(2, 3)).save(str(tmp_path / 'x.pth'))
    with pytest.raises(CheckpointError, match=r'x\.pth is refused: it is a TorchScript program'):
        read_checkpoint(str(tmp_path / 'x.pth'))
