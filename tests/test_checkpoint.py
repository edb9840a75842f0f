"""Reading checkpoints: what is read, what is refused, and what is said."""

import os
import pickle
import subprocess
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR

from mmrest import checkpoint
from mmrest.checkpoint import CheckpointError, match, read_checkpoint, read_state_dict

STATE = OrderedDict(a=torch.ones(2), b=torch.zeros(3))


@pytest.fixture(params=['guard of torch', 'guard for torch before 2.6'], autouse=True)
def guard(request, monkeypatch):
    """Every file is read both ways."""
    if request.param != 'guard of torch':
        monkeypatch.setattr(checkpoint, '_torch_can_be_told_of_types', lambda: False)


def saved(path, content):
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize(
    'content',
    [STATE, {'model': STATE, 'epoch': 3}, {'state_dict': STATE, 'model': 'RMT', 'meta': {}}],
    ids=['plain', 'model', 'state_dict'],
)
def test_containers(tmp_path, content):
    state = read_state_dict(saved(tmp_path / 'x.pth', content))
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_prefix(tmp_path):
    path = saved(
        tmp_path / 'x.pth', {'state_dict': {'backbone.a': STATE['a'], 'neck.b': STATE['b']}}
    )
    assert list(read_state_dict(path, 'backbone')) == ['a']
    assert list(read_state_dict(path, 'backbone.')) == ['a']
    with pytest.raises(
        CheckpointError, match=r"begins with 'head\.'; its tensors are backbone\.a"
    ):
        read_state_dict(path, 'head')


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
        read_state_dict(path)
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
            read_state_dict(str(path))
        assert '\n' not in str(error.value)


def test_match():
    wanted = dict(
        STATE, **{'bn.num_batches_tracked': torch.tensor(0), 'norm1.weight': torch.ones(1)}
    )
    tensors, report = match(
        'f', dict(STATE, head=torch.ones(1)), wanted, lambda name: name.startswith('norm1.')
    )
    assert tensors.keys() == STATE.keys()
    assert report == (
        '2 of 3 tensors loaded from f, 1 keep their values (norm1.weight), '
        '1 of the file ignored (head)'
    )
    with pytest.raises(
        CheckpointError,
        match=r'f does not fit: 1 of 3 tensors match, 1 missing \(norm1\.weight\), 1 of another '
        r'shape \(b \(4,\) instead of \(3,\)\); the file has 0 tensors under other names \(none\)',
    ):
        match('f', {'a': STATE['a'], 'b': torch.ones(4)}, wanted)


def test_match_hints_at_a_prefix():
    detector = {f'backbone.{name}': tensor for name, tensor in STATE.items()}
    with pytest.raises(CheckpointError, match=r"; those of prefix='backbone' would$"):
        match('f', detector, STATE)
