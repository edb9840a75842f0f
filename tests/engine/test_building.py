"""Layer-wise learning rate decay."""

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmrest.errors import UsageError
from tests.models.networks import FAMILIES, tiny

RATE = 0.5


def groups(model, constructor='BackboneLayerDecayConstructor', **paramwise_cfg):
    """Return parameter name -> parameter group."""
    optimizer = dict(type='SGD', lr=1.0, weight_decay=0.1)
    cfg = dict(optimizer=optimizer, constructor=constructor, paramwise_cfg=paramwise_cfg)
    wrapper = build_optim_wrapper(model, cfg)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(g['params'][0])]: g for g in wrapper.optimizer.param_groups}


@pytest.mark.parametrize('family', FAMILIES)
def test_rates(family):
    model = nn.ModuleDict(dict(backbone=tiny(family, frozen_stages=0), head=nn.Linear(2, 2)))
    keys = dict(head=dict(lr_mult=10.0))
    found = groups(model, layer_decay_rate=RATE, norm_decay_mult=0, custom_keys=keys)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names <= found.keys()  # mmengine 0.10.0 also has groups of frozen parameters
    for name in names:
        group = found[name]
        depth, depths = model['backbone'].get_layer_depth(name, 'backbone.')
        full = 10.0 if name.startswith('head') else 1.0
        assert group['lr'] == pytest.approx(full * RATE ** (depths - 1 - depth))
    assert {group['weight_decay'] for group in found.values()} == {0, 0.1}


def test_errors():
    model = nn.ModuleDict(dict(backbone=nn.Linear(2, 2)))
    with pytest.raises(UsageError, match='needs a backbone with get_layer_depth'):
        groups(model, layer_decay_rate=RATE)
    model = nn.ModuleDict(dict(backbone=tiny(FAMILIES[0])))
    for rate in (0, 1.5):
        with pytest.raises(UsageError, match=r'layer_decay_rate must be in \(0, 1\], got'):
            groups(model, layer_decay_rate=rate)


def test_mmpretrains_constructor():
    """It asks a classifier, which asks its backbone."""
    from mmpretrain.models import ImageClassifier
    from mmpretrain.utils import register_all_modules

    register_all_modules(False)
    backbone = tiny(FAMILIES[0])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        head = dict(type='LinearClsHead', num_classes=2, in_channels=2)
        model = ImageClassifier(backbone, head=head)
    constructor = 'mmpretrain.LearningRateDecayOptimWrapperConstructor'
    stem, *_ = groups(model, constructor, layer_decay_rate=RATE).values()
    _, depths = backbone.get_layer_depth('')
    assert stem['lr'] == pytest.approx(RATE ** (depths - 1))
