"""Pretrained weights through init_cfg: everything of the backbone, or an error."""

import copy
import logging

import pytest
import torch
from mmengine.logging import MMLogger

from mmrest import RMT, ResT
from mmrest.checkpoint import CheckpointError
from tests.models.networks import FAMILIES, TINY, randomised, tiny
from tests.shared import needs_reference, reference, weights

both = pytest.mark.parametrize('family', FAMILIES)


def pretrained(path, **kwargs):
    return dict(type='Pretrained', checkpoint=str(path), **kwargs)


@pytest.fixture
def log(caplog):
    """Lines of mmengine's log."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


def equal(network, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@both
@pytest.mark.parametrize('container', [None, 'model', 'state_dict'])
def test_containers(family, container, tmp_path, log):
    state = randomised(tiny(family)).state_dict()
    torch.save(state if container is None else {container: state}, tmp_path / 'x.pth')
    network = tiny(family, init_cfg=pretrained(tmp_path / 'x.pth'))
    network.init_weights()
    assert equal(network, state)
    count = len([name for name in state if 'num_batches_tracked' not in name])
    assert f'{count} of {count} tensors loaded' in log.text


@both
def test_backbone_of_a_detector(family, tmp_path):
    state = randomised(tiny(family)).state_dict()
    detector = {f'backbone.{name}': tensor for name, tensor in state.items()}
    torch.save({'state_dict': {**detector, 'neck.weight': torch.ones(3)}}, tmp_path / 'x.pth')
    network = tiny(family, init_cfg=pretrained(tmp_path / 'x.pth', prefix='backbone'))
    network.init_weights()
    assert equal(network, state)
    with pytest.raises(CheckpointError, match=r'0 of .* tensors match'):
        tiny(family, init_cfg=pretrained(tmp_path / 'x.pth')).init_weights()


@both
def test_what_may_be_missing_or_left_over(family, tmp_path, log):
    """A classification file: no norms of the early outputs, a classifier, later stages."""
    whole = randomised(tiny(family))
    norms = [n for n in whole.state_dict() if n.startswith(('norm1', 'norm2', 'extra_norms'))]
    state = {n: t for n, t in whole.state_dict().items() if n not in norms}
    state.update({'head.weight': torch.ones(2), 'layers.0.Relpos.angle': torch.ones(1)})
    torch.save(state, tmp_path / 'x.pth')
    network = tiny(family, out_indices=(1, 2), init_cfg=pretrained(tmp_path / 'x.pth'))
    network.init_weights()
    for name, tensor in network.state_dict().items():
        if name in state:
            assert torch.equal(tensor, state[name]), name
        else:
            assert name in norms
    assert 'keep their values' in log.text and 'ignored' in log.text


@both
@pytest.mark.parametrize('damage', ['half', 'arch', 'transposed', 'empty'])
def test_what_does_not_fit_is_an_error_and_changes_nothing(family, damage, tmp_path):
    other = dict(dims=(8, 16, 24, 40), depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4))
    state = family(other).state_dict() if damage == 'arch' else tiny(family).state_dict()
    names = [n for n in state if n.endswith('fc1.weight')]
    if damage == 'half':
        state = dict(list(state.items())[: len(state) // 2])
    elif damage == 'transposed':
        state[names[0]] = state[names[0]].T.contiguous()
    elif damage == 'empty':
        state = {'other.' + name: tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / 'x.pth')
    network = tiny(family, init_cfg=pretrained(tmp_path / 'x.pth'))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CheckpointError, match=r'x\.pth for \w+ does not fit: \d+ of \d+ tensors'):
        network.init_weights()
    assert equal(network, before)


@both
def test_weights_of_a_deeper_network(family, tmp_path):
    """They cover every tensor, and are meant for another arch."""
    deeper = family(dict(TINY[family], depths=(1, 3, 1, 1)))
    torch.save(deeper.state_dict(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=r'tensors of blocks that this .* does not have'):
        tiny(family).load_pretrained(str(tmp_path / 'x.pth'))


@both
def test_pretrained_comes_after_other_initialisers(family, tmp_path):
    state = randomised(tiny(family)).state_dict()
    torch.save(state, tmp_path / 'x.pth')
    constant = dict(type='Constant', layer='Linear', val=7)
    network = tiny(family, init_cfg=[pretrained(tmp_path / 'x.pth'), constant])
    network.init_weights()
    assert equal(network, state)
    assert network.init_cfg == [pretrained(tmp_path / 'x.pth'), constant]
    network = tiny(family, init_cfg=constant)
    network.init_weights()
    assert (
        network.blocks(0)[0].get_submodule('mlp' if family is ResT else 'ffn').fc1.weight == 7
    ).all()


@needs_reference
@pytest.mark.parametrize('name', ['rmt_t', 'rest_lite'])
def test_released_classification_file(name, tmp_path, log):
    (entry,) = (e for e in reference('classification') if e['name'] == name)
    family, arch = name.split('_')
    shapes = {**reference('checkpoint_keys')[name], **entry['extra_keys']}
    for missing in entry['not_in_classification_checkpoint']:
        del shapes[missing]
    state = weights().fill(shapes)
    torch.save({'model': state}, tmp_path / 'x.pth')
    cls = {'rmt': RMT, 'rest': ResT}[family]
    network = cls(arch, init_cfg=pretrained(tmp_path / 'x.pth'))
    network.init_weights()
    loaded = {n: t for n, t in network.state_dict().items() if n in state}
    assert all(torch.equal(tensor, state[n]) for n, tensor in loaded.items())
    assert f'{len(loaded)} of ' in log.text
