"""Reading files of weights: what is read, what is refused, and what is said."""

import argparse
import datetime
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR

from mmrest.checkpoint import CheckpointError, read_checkpoint, read_weights, reading

STATE = OrderedDict(a=torch.ones(2), b=torch.zeros(3))


@pytest.fixture(params=['guard of torch', 'guard for torch before 2.6'], autouse=True)
def guard(request, monkeypatch):
    """Every file is read both ways."""
    if request.param != 'guard of torch':
        monkeypatch.setattr(reading, '_torch_has_allowlist', lambda: False)


def saved(path, content):
    torch.save(content, path)
    return str(path)


def test_what_the_runner_of_mmengine_saves(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {
        'message_hub': {'log_scalars': {'train/loss': history}},
        'numbers': [np.float64(1.5), np.float32(2), np.int64(3), np.bool_(True)],
        'array': np.arange(6, dtype=np.float32).reshape(2, 3),
        'milestones': Counter([8, 11]),
        'dataset_meta': ConfigDict(classes=('disc',), nested=dict(palette=[(1, 2, 3)])),
        'scheduler': {'_anneal_func': OneCycleLR._annealing_cos},
    }
    found = read_checkpoint(saved(tmp_path / 'x.pth', content))
    assert found['message_hub']['log_scalars']['train/loss'].mean() == 1.5
    assert found['numbers'] == content['numbers']
    assert np.array_equal(found['array'], content['array'])
    for name in ('milestones', 'dataset_meta', 'scheduler'):
        assert found[name] == content[name]


class Command:
    """Unpickles by running a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    'function, args',
    [
        (os.system, ('touch {}',)),
        (subprocess.call, (['touch', '{}'],)),
        (eval, ("open('{}', 'w')",)),
        (getattr, (dict, 'fromkeys')),
        (getattr, (HistoryBuffer, '__init__')),
    ],
)
def test_commands_are_refused_and_not_run(tmp_path, function, args):
    witness = tmp_path / 'witness'
    args = tuple(
        [a.format(witness) for a in arg]
        if isinstance(arg, list)
        else arg.format(witness)
        if isinstance(arg, str)
        else arg
        for arg in args
    )
    path = saved(tmp_path / 'x.pth', {'state_dict': STATE, 'meta': [Command(function, *args)]})
    with pytest.raises(CheckpointError, match=r'x\.pth is refused: it would build a \S+'):
        read_weights(path)
    assert not witness.exists()


def test_what_is_no_checkpoint(tmp_path):
    text, truncated, number = (tmp_path / name for name in ('text', 'truncated', 'number'))
    text.write_text('weights')
    keyed = tmp_path / 'keyed'
    keyed.write_text('hello')
    whole = saved(tmp_path / 'whole', STATE)
    with open(whole, 'rb') as file:
        truncated.write_bytes(file.read()[:-200])
    saved(number, 3)
    plain_pickle = tmp_path / 'pickle'
    plain_pickle.write_bytes(pickle.dumps([object]))
    for path, message in [
        (tmp_path / 'absent', 'absent does not exist'),
        (tmp_path, 'is a directory'),
        (text, 'text cannot be read as a checkpoint: it is empty, truncated or not'),
        (keyed, 'keyed cannot be read as a checkpoint: it is empty, truncated or not'),
        (truncated, 'truncated cannot be read as a checkpoint'),
        (plain_pickle, 'pickle (cannot be read|is refused)'),
        (number, 'number holds a int, not a state dict'),
        (saved(tmp_path / 'empty', {'state_dict': {}}), 'empty holds no tensors'),
    ]:
        with pytest.raises(CheckpointError, match=message) as error:
            read_weights(str(path))
        assert '\n' not in str(error.value)


def test_arguments_of_a_training_program(tmp_path):
    """What the programs of ResT and RMT keep beside the weights."""
    args = argparse.Namespace(lr=1e-3, output_dir=pathlib.Path('runs/rmt'), aa='rand-m9')
    found = read_checkpoint(saved(tmp_path / 'x.pth', {'model': STATE, 'args': args}))
    assert found['args'].lr == 1e-3
    assert str(found['args'].output_dir) == 'runs/rmt'


class CfgNode(dict):
    """Stands for that of yacs, by name."""


CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'


def test_settings_of_a_library_that_is_not_installed(tmp_path, monkeypatch):
    module = type(os)('yacs.config')
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, 'yacs', type(os)('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    path = saved(
        tmp_path / 'x.pth', {'model': STATE, 'config': CfgNode(lr=1, nested=CfgNode(a=2))}
    )
    monkeypatch.delitem(sys.modules, 'yacs.config')
    assert read_checkpoint(path)['config'] == {'lr': 1, 'nested': {'a': 2}}


def test_safetensors(tmp_path):
    path = tmp_path / 'x.safetensors'
    safetensors.torch.save_file(dict(STATE), path)
    found = read_weights(str(path)).tensors
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)
    assert read_checkpoint(str(path), 'meta')['a'].device.type == 'meta'
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r'cannot be read .* \(SafetensorError: '):
        read_checkpoint(str(path))


def test_files_of_torch_before_1_6(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(str(path)).tensors['a'], STATE['a'])
    bad = tmp_path / 'bad.pth'
    witness = tmp_path / 'witness'
    command = Command(os.system, f'touch {witness}')
    torch.save([command], bad, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match='is refused: it would build a'):
        read_checkpoint(str(bad))
    assert not witness.exists()


def test_what_would_unpack_to_more_than_it_is(tmp_path):
    path = tmp_path / 'x.pth'
    with zipfile.ZipFile(saved(path, STATE)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content + bytes(10**7))
    with pytest.raises(CheckpointError, match=r'its \d+ bytes would unpack to \d+'):
        read_checkpoint(str(path))


@pytest.mark.parametrize('code', ['<f4', '>f8', '<i8', '<f2', '|b1'])
def test_kinds_of_arrays(code, tmp_path):
    array = np.arange(6).reshape(2, 3).astype(code)
    content = {'a': array, 'b': np.asfortranarray(array), 'c': [array[0, 1]], 'd': (array[:1],)}
    found = read_checkpoint(saved(tmp_path / 'x.pth', content))
    assert all(np.array_equal(found[name], content[name]) for name in ('a', 'b'))
    assert found['c'] == content['c'] and np.array_equal(found['d'][0], content['d'][0])


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_protocols_of_old_files(protocol, tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(
        {'a': STATE['a']}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False
    )
    if protocol == 2:
        assert torch.equal(read_checkpoint(str(path))['a'], STATE['a'])
    else:
        try:
            assert torch.equal(read_checkpoint(str(path))['a'], STATE['a'])
        except CheckpointError as error:  # torch's guard reads protocol 2 alone
            assert 'cannot be read' in str(error) or 'is refused' in str(error)


def test_types_of_settings(tmp_path):
    settings = {
        'names': frozenset('ab'),
        'time': datetime.datetime(2024, 1, 2, 3),
        'took': datetime.timedelta(seconds=5),
        'args': SimpleNamespace(lr=1),
    }
    assert read_checkpoint(saved(tmp_path / 'x.pth', settings)) == settings
