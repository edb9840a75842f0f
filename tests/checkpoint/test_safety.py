"""Files that would execute a command on loading are refused.

That every command reads through this guard is in tests/cli/test_bad_input.py.
"""

import builtins
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmrest.checkpoint import CheckpointError, read_checkpoint


class Call:
    """Unpickles by a call, and sets a state of its result."""

    def __init__(self, function, *args, state=None):
        self.call = function, args, state

    def __reduce__(self):
        return self.call

    def __call__(self):
        """pickle requires a callable."""


PAYLOADS = {
    'os.system': lambda witness: Call(os.system, f'mkdir {witness}'),
    'subprocess': lambda witness: Call(subprocess.check_call, ['mkdir', witness]),
    'eval': lambda witness: Call(eval, f"__import__('os').mkdir('{witness}')"),
    'exec': lambda witness: Call(exec, f"import os; os.mkdir('{witness}')"),
    'getattr': lambda path: Call(Call(getattr, Call(builtins.__import__, 'os'), 'mkdir'), path),
    'mkdir': lambda witness: Call(os.mkdir, witness),
    'nested': lambda witness: Call(list, Call(map, os.mkdir, [witness])),
}


def containers(payload):
    """Places for a payload in a file."""
    state = {'stem.weight': torch.ones(2), 'stem.bias': torch.zeros(2)}
    return {
        'tensors': {**state, 'extra': payload},
        'optimizer': {'model': state, 'optimizer': {'state': {0: {'step': payload}}}},
        'detectron2': {'model': state, '__author__': payload, 'iteration': 7},
        'mmdet': {'meta': {'hook_msgs': payload}, 'state_dict': state},
        'key': {'model': state, 'names': {('a', payload): 1}},
    }


def refused(content, form, path):
    """Write a file in one of three forms, and return the message with which it is refused."""
    if form == 'pickle':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == 'zip')
    wanted = r'(^refusing to load \S*x\.pth: it contains a pickled|x\.pth cannot be read as a)'
    with pytest.raises(CheckpointError, match=wanted) as error:
        read_checkpoint(str(path))
    return str(error.value)


forms = pytest.mark.parametrize('form', ['zip', 'legacy', 'pickle'])

CONTAINERS = list(containers(None))
# Every payload in turn in another container, and the least visible one in all.
CASES = [
    *((kind, CONTAINERS[i % len(CONTAINERS)]) for i, kind in enumerate(PAYLOADS)),
    *(('getattr', container) for container in CONTAINERS),
]


@pytest.mark.parametrize('kind, container', CASES)
@forms
def test_commands(kind, container, form, guard, tmp_path):
    witness = tmp_path / 'witness'
    content = containers(PAYLOADS[kind](str(witness)))[container]
    assert '\n' not in refused(content, form, tmp_path / 'x.pth')
    assert not witness.exists()


def test_the_payloads_work(tmp_path):
    for number, (kind, payload) in enumerate(PAYLOADS.items()):
        witness = tmp_path / str(number)
        torch.save([payload(str(witness))], tmp_path / 'x.pth')
        torch.load(tmp_path / 'x.pth', weights_only=False)
        assert witness.exists(), kind


@pytest.mark.parametrize('owner, name', [(dict, 'fromkeys'), (HistoryBuffer, '__init__')])
def test_methods(owner, name, guard, tmp_path):
    """Only methods of mmengine's logs and schedules are allowed."""
    message = refused([Call(getattr, owner, name)], 'zip', tmp_path / 'x.pth')
    assert 'it contains a pickled ' in message


@pytest.mark.parametrize('code', ['O8', 'V8', 'M8', 'i4,O8'])
@forms
def test_object_arrays(code, form, guard, tmp_path):
    """Bytes that numpy would interpret as addresses of objects."""
    dtype = Call(np.dtype, code, False, True, state=(3, '|', None, None, None, -1, -1, 1))
    state = (1, (1,), dtype, False, b'\x08' * 8)
    array = Call(np.zeros(1).__reduce__()[0], np.ndarray, (0,), b'b', state=state)
    refused({'model': {'a': array}}, form, tmp_path / 'x.pth')


def test_array_from_a_buffer(guard, tmp_path):
    """Its arguments are ignored: they would be the addresses of objects."""
    torch.save({'a': Call(np.ndarray, (1,), 'O', b'\x08' * 8)}, tmp_path / 'x.pth')
    found = read_checkpoint(str(tmp_path / 'x.pth'))['a']
    assert found.dtype != object and found.size == 0
