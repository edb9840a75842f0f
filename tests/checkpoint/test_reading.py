"""Reading checkpoints: supported content, and the messages for everything else."""

import argparse
import datetime
import os
import pathlib
import pickle
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

from mmrest.checkpoint import CheckpointError, read_checkpoint, read_weights

STATE = OrderedDict(a=torch.ones(2), b=torch.zeros(3))


pytestmark = pytest.mark.usefixtures('guard')


def saved(path, content, **options):
    torch.save(content, path, **options)
    return str(path)


def test_a_checkpoint_of_mmengine(tmp_path):
    """Arrays can be saved again after reading."""
    content = {
        'message_hub': {'log_scalars': {'train/loss': HistoryBuffer([1.0, 2.0], [1, 1])}},
        'numbers': [np.float64(1.5), np.float32(2), np.int64(3), np.bool_(True)],
        'milestones': Counter([8, 11]),
        'dataset_meta': ConfigDict(classes=('disc',), nested=dict(palette=[(1, 2, 3)])),
        'scheduler': {'_anneal_func': OneCycleLR._annealing_cos},
    }
    found = read_checkpoint(saved(tmp_path / 'x.pth', content))
    found = read_checkpoint(saved(tmp_path / 'x.pth', found))
    history = found['message_hub']['log_scalars']['train/loss']
    history.update(3.0)
    assert history.mean() == 2
    for name in ('numbers', 'milestones', 'dataset_meta', 'scheduler'):
        assert found[name] == content[name]


@pytest.mark.parametrize('code', ['<f4', '>f8', '<i8', '<f2', '|b1'])
def test_arrays(code, tmp_path):
    array = np.arange(6).reshape(2, 3).astype(code)
    content = {'a': array, 'b': np.asfortranarray(array), 'c': [array[0, 1]], 'd': (array[:1],)}
    found = read_checkpoint(saved(tmp_path / 'x.pth', content))
    assert all(np.array_equal(found[name], content[name]) for name in ('a', 'b'))
    assert found['a'].dtype.newbyteorder('=') == array.dtype.newbyteorder('=')
    assert found['c'] == content['c'] and np.array_equal(found['d'][0], content['d'][0])


class CfgNode(dict):
    """Substitute for the class of yacs."""


CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'


def test_settings(tmp_path, monkeypatch):
    """Settings of training scripts are read, even if their library is not installed."""
    module = type(os)('yacs.config')
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, 'yacs', type(os)('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    settings = {
        'names': frozenset('ab'),
        'kinds': {1, 2j},
        'device': torch.device('cpu'),
        'dtypes': [torch.bfloat16, torch.bool],
        'time': datetime.datetime(2024, 1, 2, 3),
        'took': datetime.timedelta(seconds=5),
        'simple': SimpleNamespace(lr=1),
        'args': argparse.Namespace(lr=1e-3, aa='rand-m9'),
        'config': CfgNode(lr=1, nested=CfgNode(a=2)),
    }
    folder = dict(output_dir=pathlib.Path('runs/rmt'))
    path = saved(tmp_path / 'x.pth', {**settings, **folder})
    monkeypatch.delitem(sys.modules, 'yacs.config')
    found = read_checkpoint(path)
    assert str(found.pop('output_dir')) == 'runs/rmt' and found == settings


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


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_files_of_torch_before_1_6(protocol, tmp_path):
    options = dict(pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    path = saved(tmp_path / 'x.pth', {'a': STATE['a']}, **options)
    try:
        assert torch.equal(read_checkpoint(path)['a'], STATE['a'])
    except CheckpointError:
        assert protocol > 2  # torch's guard reads protocol 2 only


def test_invalid_files(tmp_path):
    (tmp_path / 'text').write_text('weights')
    (tmp_path / 'keyed').write_text('hello')
    (tmp_path / 'pickle').write_bytes(pickle.dumps([object]))
    content = (tmp_path / saved(tmp_path / 'full', STATE)).read_bytes()
    (tmp_path / 'truncated').write_bytes(content[:-200])
    saved(tmp_path / 'number', 3)
    saved(tmp_path / 'empty', {'state_dict': {}})
    torch.jit.script(torch.nn.Linear(2, 3)).save(str(tmp_path / 'script'))
    with zipfile.ZipFile(tmp_path / 'full') as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(tmp_path / 'bomb', 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, part in entries.items():
            archive.writestr(name, part + bytes(10**6))
    for name, message in [
        ('absent', 'does not exist'),
        ('.', 'is a directory, not a file'),
        ('text', 'text cannot be read as a checkpoint: it is empty, truncated or not'),
        ('keyed', 'keyed cannot be read as a checkpoint'),
        ('truncated', 'truncated cannot be read as a checkpoint'),
        ('pickle', 'pickle(: it contains a pickled| cannot be read)'),
        ('number', 'number contains a int, not a state dict'),
        ('empty', 'empty has no tensors'),
        ('script', 'script is a TorchScript program'),
        ('bomb', r'bomb is a compressed archive \(\d+ bytes expand to \d+\)'),
    ]:
        with pytest.raises(CheckpointError, match=message) as error:
            read_weights(str(tmp_path / name))
        assert '\n' not in str(error.value)
