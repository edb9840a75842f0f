"""Pretrained weights through init_cfg: everything of the backbone, or an error."""

import copy
import functools

import pytest
import torch

from mmrest import RMT, ResT
from mmrest.checkpoint import CheckpointError
from tests.models.networks import FAMILIES, TINY, randomised, tiny
from tests.models.test_reference import assert_maps
from tests.reference import CLASSIFICATION, FEATURE_MAPS, KEYS, fill

both = pytest.mark.parametrize('family', FAMILIES)
slow = pytest.mark.slow


def pretrained(path, **kwargs):
    return dict(type='Pretrained', checkpoint=str(path), **kwargs)


def equal(network, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@both
@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.', '_orig_mod.'])
@pytest.mark.parametrize('container', [None, 'model', 'state_dict', 'model_ema'])
def test_files(family, container, prefix, tmp_path, log):
    state = randomised(tiny(family)).state_dict()
    content = {prefix + name: tensor for name, tensor in state.items()}
    torch.save(content if container is None else {container: content}, tmp_path / 'x.pth')
    network = tiny(family, init_cfg=pretrained(tmp_path / 'x.pth'))
    network.init_weights()
    assert equal(network, state)
    count = len([name for name in state if 'num_batches_tracked' not in name])
    assert f'{count} of {count} tensors loaded' in log.text


@both
def test_one_backbone_of_several(family, tmp_path, log):
    states = {prefix: randomised(tiny(family)).state_dict() for prefix in ('student', 'teacher')}
    content = {f'{prefix}.{n}': t for prefix, state in states.items() for n, t in state.items()}
    torch.save(dict(content, head=torch.ones(1)), tmp_path / 'x.pth')
    network = tiny(family, init_cfg=pretrained(tmp_path / 'x.pth', prefix='teacher'))
    network.init_weights()
    assert equal(network, states['teacher'])
    with pytest.raises(CheckpointError, match=r"several networks, .* set prefix='student'"):
        tiny(family, init_cfg=pretrained(tmp_path / 'x.pth')).init_weights()


@both
def test_missing_and_unused_tensors(family, tmp_path, log):
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
    assert 'keep their initial values' in log.text and 'ignored' in log.text


@both
@pytest.mark.parametrize('damage', ['half', 'arch', 'transposed', 'empty'])
def test_mismatch_is_an_error_and_loads_nothing(family, damage, tmp_path):
    other = dict(dims=(8, 16, 24, 40), depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4))
    state = family(other).state_dict() if damage == 'arch' else tiny(family).state_dict()
    names = [n for n in state if n.endswith('fc1.weight')]
    if damage == 'half':
        state = dict(list(state.items())[: len(state) // 2])
    elif damage == 'transposed':
        state[names[0]] = state[names[0]].T.contiguous()
    elif damage == 'empty':
        state = {'other_' + name: tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / 'x.pth')
    network = tiny(family, init_cfg=pretrained(tmp_path / 'x.pth'))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(
        CheckpointError, match=r'x\.pth for \w+ does not match .*: \d+ of \d+ tensors'
    ):
        network.init_weights()
    assert equal(network, before)


@both
def test_weights_of_a_deeper_network(family, tmp_path):
    """They cover every tensor, but are for another arch."""
    deeper = family(dict(TINY[family], depths=(1, 3, 1, 1)))
    torch.save(deeper.state_dict(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=r'belong to blocks that the model does not have'):
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


NETWORKS = {'rmt': RMT, 'rest': ResT}


@functools.lru_cache(maxsize=1)
def released(name, kind):
    """Return the weights of one of the eight networks in a file format."""
    shapes = dict(KEYS[name])
    extra = {'neck.lateral_convs.0.conv.weight': [8, 8, 1, 1]}
    if kind == 'classification':
        (entry,) = (e for e in CLASSIFICATION if e['name'] == name)
        for missing in entry['not_in_classification_checkpoint']:
            del shapes[missing]
        extra = entry['extra_keys']
    state = fill(shapes)
    return state, fill(extra)


CONTAINERS = [None, 'model', 'state_dict', 'model_ema', 'state_dict_ema']
PREFIXES = ['', 'module.', 'backbone.', 'backbone.bottom_up.', '_orig_mod.']


def load_released(name, kind, container, prefix, path):
    """Return the network of an official file, with its weights checked."""
    state, extra = released(name, kind)
    content = {prefix + n: t for n, t in state.items()}
    content.update((f'module.{n}' if prefix == 'module.' else n, t) for n, t in extra.items())
    if container is not None:
        worse = {container[:-4]: {n: t + 1 for n, t in content.items()}}
        content = {container: content, **(worse if container.endswith('_ema') else {})}
    torch.save(content, path)
    family, arch = name.split('_')
    network = NETWORKS[family](arch, init_cfg=pretrained(path))
    network.init_weights()
    path.unlink()  # hundreds of them would fill a disk
    loaded = network.state_dict()
    assert all(torch.equal(loaded[n], tensor) for n, tensor in state.items())
    return network


@pytest.mark.parametrize('kind', ['detection', 'classification'])
@pytest.mark.parametrize('name', ['rmt_t', 'rest_lite'])
def test_official_files(name, kind, tmp_path):
    files = list(zip(CONTAINERS, PREFIXES))
    if kind == 'classification':
        files = [('model', ''), ('state_dict_ema', 'module._orig_mod.')]
    for container, prefix in files:
        load_released(name, kind, container, prefix, tmp_path / 'x.pth')


@slow
@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize('container', CONTAINERS)
@pytest.mark.parametrize('kind', ['detection', 'classification'])
@pytest.mark.parametrize('name', KEYS)
def test_official_files_of_every_network(name, kind, container, prefix, tmp_path):
    load_released(name, kind, container, prefix, tmp_path / 'x.pth')


@pytest.mark.parametrize('name', ['rmt_t', 'rmt_s', 'rest_lite', 'rest_small', 'rest_base'])
def test_maps_of_an_official_file(name, tmp_path):
    """A detector's file gives the reference values of the official networks."""
    network = load_released(name, 'detection', 'state_dict', 'backbone.', tmp_path / 'x.pth')
    family, arch = name.split('_')
    entry = next(
        entry
        for entry in FEATURE_MAPS
        if (entry['arch'], entry['variant'], entry['norm_in_path']) == (family, arch, False)
    )
    assert_maps(network, entry)


@pytest.mark.parametrize('arch', ['swin_t', 'deit_s'])
def test_files_of_ablation_networks(arch, tmp_path):
    """They are recognised by name; other archs reject them."""
    path, network = tmp_path / 'x.pth', RMT(arch)
    torch.save(network.state_dict(), path)
    other = RMT(arch)
    other.load_pretrained(str(path))
    assert equal(other, network.state_dict())
    with pytest.raises(CheckpointError, match=f'; it looks like rmt_{arch}: set type and arch'):
        RMT('t').load_pretrained(str(path))


@pytest.mark.parametrize(
    'switch', ['cpe', 'conv_stem', *(pytest.param(s, marks=slow) for s in ('lce', 'conv_ffn'))]
)
def test_weights_with_a_disabled_part(switch, tmp_path):
    """Their training depended on that part."""
    torch.save(RMT('t').state_dict(), tmp_path / 'x.pth')
    network = RMT({'base': 't', switch: False})
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CheckpointError, match='it looks like rmt_t: set type and arch'):
        network.load_pretrained(str(tmp_path / 'x.pth'))
    assert equal(network, before)


@pytest.mark.parametrize('name, family, arch', [
    ('rest_lite', RMT, 't'), pytest.param('rmt_b', RMT, 's', marks=slow),
    pytest.param('rest_large', ResT, 'base', marks=slow),
])  # fmt: skip
def test_errors_name_the_matching_arch(name, family, arch, tmp_path):
    path = tmp_path / 'x.pth'
    state, extra = released(name, 'classification')
    torch.save({'model': {**state, **extra}}, path)
    with pytest.raises(CheckpointError, match=f'; it looks like {name}: set type and arch'):
        family(arch).load_pretrained(path)


def test_no_arch_is_named_for_a_part_of_a_network(tmp_path):
    path = tmp_path / 'x.pth'
    state, _ = released('rest_lite', 'classification')
    torch.save(dict(list(state.items())[:100]), path)
    with pytest.raises(CheckpointError, match=r'\d+ of \d+ tensors match') as error:
        ResT('lite').load_pretrained(path)
    assert 'looks like' not in str(error.value)


@both
def test_second_initialisation_keeps_trained_weights(family, tmp_path):
    """mmengine's runners call init_weights at every train()."""
    torch.save(randomised(tiny(family)).state_dict(), tmp_path / 'x.pth')
    network = tiny(family, init_cfg=pretrained(tmp_path / 'x.pth'))
    network.init_weights()
    learned = randomised(network).state_dict()
    learned = {name: tensor.clone() for name, tensor in learned.items()}
    network.init_weights()
    assert equal(network, learned)


@pytest.mark.parametrize(
    'init_cfg, message',
    [
        ('x.pth', "init_cfg must be a dict such as dict\\(type='Pretrained'.* got 'x.pth'"),
        (['x.pth'], "init_cfg must be a dict .* got \\['x.pth'\\]"),
        (dict(type='Pretrained'), 'checkpoint=PATH.* got .*Pretrained'),
        (dict(type='Pretrained', checkpoint='x.pth', prefix=3), 'a string as prefix.* got .*3'),
        (dict(type='Pretrained', checkpoint='x.pth', strict=True), "got {.*'strict': True"),
    ],
)
@both
def test_init_cfg_errors(family, init_cfg, message):
    with pytest.raises(ValueError, match=message):
        tiny(family, init_cfg=init_cfg)
