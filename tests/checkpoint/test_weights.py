"""Tensors by name, without containers and wrappers."""

import pytest
import torch

from mmrest.checkpoint import CheckpointError, Weights, read_weights, weights_of

STATE = dict(a=torch.ones(2), b=torch.zeros(3))
OTHER = {name: tensor - 5 for name, tensor in STATE.items()}


def equal(tensors, state=STATE):
    return list(tensors) == list(state) and all(torch.equal(tensors[n], state[n]) for n in state)


@pytest.mark.parametrize('content, source', [
    (STATE, 'x.pth'),
    ({'state_dict': STATE, 'model': 'RMT', 'meta': {}}, 'x.pth'),
    ({'model_ema': STATE}, 'x.pth'),
    ({'model': {**STATE, 'epoch': 3, 'names': ['a']}}, 'x.pth'),
    ({'model': OTHER, 'model_ema': STATE}, 'x.pth (model_ema, not model)'),
    ({'state_dict': OTHER, 'state_dict_ema': STATE}, 'x.pth (state_dict_ema, not state_dict)'),
])  # fmt: skip
def test_containers(content, source):
    """EMA weights are preferred."""
    found = weights_of('x.pth', content)
    assert equal(found.tensors) and found.source == source


@pytest.mark.parametrize('wrapped, bare', [
    ('module.a', 'a'),
    ('_orig_mod.module.a', 'a'),
    ('module.backbone._orig_mod.a', 'backbone.a'),
    ('my_orig_mod.a', 'my_orig_mod.a'),
    ('neck.module.a', 'neck.module.a'),
])  # fmt: skip
def test_wrappers(wrapped, bare):
    assert list(weights_of('x', {wrapped: STATE['a']}).tensors) == [bare]


def test_duplicate_names():
    with pytest.raises(CheckpointError, match='contains a twice'):
        weights_of('x', {'a': STATE['a'], 'module.a': STATE['a']})


def test_prefix(tmp_path):
    path = str(tmp_path / 'x.pth')
    torch.save({'state_dict': {'backbone.a': STATE['a'], 'neck.b': STATE['b']}}, path)
    for prefix in ('backbone', 'backbone.'):
        assert list(read_weights(path, prefix).tensors) == ['a']
    with pytest.raises(CheckpointError, match=r"begins with 'head\.'; its tensors are backb"):
        read_weights(path, 'head')


def behind(*prefixes):
    return Weights('x', {f'{prefix}{name}': t for prefix in prefixes for name, t in STATE.items()})


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'backbone.bottom_up.', 'student.encoder.'])
def test_selected_part(prefix):
    head = {'head.a': OTHER['a']}
    found = Weights('x', {**behind(prefix).tensors, **head}).of(['a', 'b'])
    assert equal(found.tensors, STATE if prefix else {**STATE, **head})


def test_several_parts():
    weights = behind('backbone.', 'ema_backbone.')
    assert weights.of(['a', 'b']).source == 'x, backbone.*'
    with pytest.raises(CheckpointError, match=r"several networks, .* set prefix='student'"):
        behind('student.', 'teacher.').of(['a', 'b'])
    assert weights.of(['c']) is weights
