"""Tensors by name, without containers and wrappers."""

import pytest
import torch

from mmrest.checkpoint import CheckpointError, Weights, read_weights, weights_of

STATE = dict(a=torch.ones(2), b=torch.zeros(3))


def equal(tensors, state=STATE):
    return list(tensors) == list(state) and all(torch.equal(tensors[n], state[n]) for n in state)


@pytest.mark.parametrize('content', [
    STATE,
    {'model': STATE, 'epoch': 3},
    {'state_dict': STATE, 'model': 'RMT', 'meta': {}},
    {'model_ema': STATE},
    {'state_dict_ema': STATE, 'arch': 'rmt'},
    {'model': {**STATE, 'epoch': 3, 'names': ['a']}},
])  # fmt: skip
def test_containers(content):
    found = weights_of('x.pth', content)
    assert found.source == 'x.pth'
    assert equal(found.tensors)


@pytest.mark.parametrize('wrapped, bare', [
    ('module.a', 'a'),
    ('_orig_mod.a', 'a'),
    ('module._orig_mod.a', 'a'),
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
    assert list(read_weights(path, 'backbone').tensors) == ['a']
    assert list(read_weights(path, 'backbone.').tensors) == ['a']
    with pytest.raises(CheckpointError, match=r"with 'head\.'; its tensors are backbone\.a"):
        read_weights(path, 'head')


def behind(*prefixes):
    return Weights('x', {f'{prefix}{name}': t for prefix in prefixes for name, t in STATE.items()})


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'backbone.bottom_up.', 'student.encoder.'])
def test_selected_part(prefix):
    found = Weights('x', {**behind(prefix).tensors, 'head.a': STATE['a']}).of(['a', 'b'])
    assert equal(found.tensors) or (prefix == '' and equal({n: found.tensors[n] for n in STATE}))


def test_several_parts():
    weights = behind('backbone.', 'ema_backbone.')
    assert weights.of(['a', 'b']).source == 'x, backbone.*'
    with pytest.raises(CheckpointError, match=r"several networks, .* set prefix='student'"):
        behind('student.', 'teacher.').of(['a', 'b'])
    assert weights.of(['c']) is weights
