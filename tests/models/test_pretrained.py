"""Pretrained weights through init_cfg: everything of the backbone, or an error."""

import copy
import functools
import itertools

import pytest
import torch
from torch import nn

from mmrest import RMT, ResT
from mmrest.checkpoint import CheckpointError
from tests.models.networks import TINY, equal, families, official, randomised, tiny
from tests.reference import KEYS, classifier_shapes, fill

slow = pytest.mark.slow


def pretrained(path, **kwargs):
    return dict(type='Pretrained', checkpoint=str(path), **kwargs)


@families
def test_one_backbone_of_several(family, tmp_path, log):
    states = {prefix: randomised(tiny(family)).state_dict() for prefix in ('student', 'teacher')}
    content = {f'{prefix}.{n}': t for prefix, state in states.items() for n, t in state.items()}
    torch.save(dict(content, head=torch.ones(1)), tmp_path / 'x.pth')
    network = tiny(family, init_cfg=pretrained(tmp_path / 'x.pth', prefix='teacher'))
    network.init_weights()
    assert equal(network.state_dict(), states['teacher'])
    count = len([name for name in states['teacher'] if 'num_batches_tracked' not in name])
    assert f'{count} of {count} tensors loaded' in log.text
    assert 'Loaded from' in log.text and 'value is the same' not in log.text


DAMAGES = {
    'half': (lambda state: dict(list(state.items())[: len(state) // 2]), r'\d+ missing \('),
    'transposed': (lambda state: {n: t.T if '.fc1.w' in n else t for n, t in state.items()},
        r'\d+ of another shape \(\S+\.fc1\.weight \(8, 32\) instead of \(32, 8\), '),
    'other names': (lambda state: {f'other_{n}': t for n, t in state.items()},
        r'\d+ in the file under other names \(other_'),
}  # fmt: skip


@families
@pytest.mark.parametrize('damage', DAMAGES)
def test_mismatch_is_an_error_and_loads_nothing(family, damage, tmp_path):
    change, message = DAMAGES[damage]
    torch.save(change(tiny(family).state_dict()), tmp_path / 'x.pth')
    network = tiny(family, init_cfg=pretrained(tmp_path / 'x.pth'))
    before = copy.deepcopy(network.state_dict())
    message = rf'x\.pth for \w+ does not match .*: \d+ of \d+ tensors matched, .*{message}'
    for _ in range(2):  # as after a correction in a notebook
        with pytest.raises(CheckpointError, match=message):
            network.init_weights()
    assert equal(network.state_dict(), before)
    with pytest.raises(CheckpointError, match=r'a network on meta: call to_empty'):
        network.to('meta').load_pretrained(str(tmp_path / 'x.pth'))


@families
@pytest.mark.parametrize('arch, norm_cfg, tensor', [
    (dict(depths=(1, 3, 1, 1)), dict(type='BN'), r'(stage2|blocks)\.2\.'),
    ({}, dict(type='GN', num_groups=2), 'running_mean'),
])  # fmt: skip
def test_weights_of_a_deeper_network_or_of_other_norms(family, arch, norm_cfg, tensor, tmp_path):
    """They cover every tensor, but are for another network."""
    torch.save(family(dict(TINY[family], **arch)).state_dict(), tmp_path / 'x.pth')
    message = f'belong to layers that the model does not have .*{tensor}'
    with pytest.raises(CheckpointError, match=message):
        tiny(family, norm_cfg=norm_cfg).load_pretrained(str(tmp_path / 'x.pth'))


@families
def test_weights_of_other_channels(family, tmp_path):
    name = next(iter(family.archs))
    torch.save(family(name).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='of another shape') as error:
        family(name, in_channels=4).load_pretrained(str(tmp_path / 'x.pth'))
    assert 'looks like' not in str(error.value)


@families
def test_weights_are_loaded_after_other_initialisers_and_once(family, tmp_path):
    """mmengine's runners call init_weights at every train()."""
    state = randomised(tiny(family)).state_dict()
    torch.save(state, tmp_path / 'x.pth')
    constant = dict(type='Constant', layer='Linear', val=7)
    init_cfg = [pretrained(tmp_path / 'x.pth'), constant]
    network = tiny(family, init_cfg=init_cfg)
    network.init_weights()
    assert equal(network.state_dict(), state) and network.init_cfg == init_cfg
    trained = copy.deepcopy(randomised(network).state_dict())
    network.init_weights()
    assert equal(network.state_dict(), trained)
    network = tiny(family, init_cfg=constant)
    network.init_weights()
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert all((linear.weight == 7).all() for linear in linears)


@functools.lru_cache(maxsize=1)
def released(name, kind='classification'):
    """Return the weights of a network of the papers, and those that its file has beside them."""
    shapes, extra = KEYS[name], {'neck.lateral_convs.0.conv.weight': [8, 8, 1, 1]}
    if kind == 'classification':
        shapes, extra = classifier_shapes(name)
    return fill(shapes), fill(extra)


CONTAINERS = [None, 'model', 'state_dict', 'model_ema', 'state_dict_ema']
PREFIXES = ['', 'module.', 'backbone.', 'backbone.bottom_up.', '_orig_mod.']
QUICK = ['rest_lite', 'rmt_t'], list(zip(CONTAINERS, PREFIXES))


@pytest.mark.parametrize('name, kind, container, prefix', [
    pytest.param(*case, marks=() if case[0] in QUICK[0] and case[2:] in QUICK[1] else slow)
    for case in itertools.product(KEYS, ('detection', 'classification'), CONTAINERS, PREFIXES)
])  # fmt: skip
def test_official_files(name, kind, container, prefix, tmp_path):
    state, extra = released(name, kind)
    content = {prefix + n: t for n, t in state.items()}
    content.update((f'module.{n}' if prefix == 'module.' else n, t) for n, t in extra.items())
    if container is not None:
        worse = {container[:-4]: {n: t + 1 for n, t in content.items()}}
        content = {container: content, **(worse if container.endswith('_ema') else {})}
    torch.save(content, tmp_path / 'x.pth')
    network = official(name)
    network.load_pretrained(str(tmp_path / 'x.pth'))
    (tmp_path / 'x.pth').unlink()  # hundreds of them would fill a disk
    assert equal(state, network.state_dict())


@pytest.mark.parametrize('name, family, arch', [
    ('rest_lite', RMT, 't'), ('rmt_swin_t', RMT, 't'), ('rmt_deit_s', RMT, 't'),
    pytest.param('rmt_b', RMT, 's', marks=slow),
    pytest.param('rest_large', ResT, 'base', marks=slow),
    # Their training depended on a part that is disabled.
    ('rmt_t', RMT, dict(base='t', cpe=False)), ('rmt_t', RMT, dict(base='t', conv_stem=False)),
])  # fmt: skip
def test_errors_name_the_matching_arch(name, family, arch, tmp_path):
    path, network, matching = tmp_path / 'x.pth', family(arch), official(name)
    state, extra = released(name) if name in KEYS else (matching.state_dict(), {})
    torch.save({'model': {**state, **extra}}, path)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CheckpointError, match=f'; it looks like {name}: set type and arch'):
        network.load_pretrained(path)
    assert equal(network.state_dict(), before)
    matching.load_pretrained(path)


def test_no_arch_is_named_for_a_part_of_a_network(tmp_path):
    state, _ = released('rest_lite')
    torch.save(dict(list(state.items())[:100]), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=r'\d+ of \d+ tensors match') as error:
        ResT('lite').load_pretrained(tmp_path / 'x.pth')
    assert 'looks like' not in str(error.value)
