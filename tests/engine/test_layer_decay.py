"""Layer-wise learning rate decay."""

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmrest.errors import UsageError
from tests.models.networks import FAMILIES, tiny

RATE = 0.5


def rates(model, paramwise_cfg):
    """Return parameter name -> learning rate."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1),
            constructor='BackboneLayerDecayConstructor',
            paramwise_cfg=paramwise_cfg,
        ),
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(g['params'][0])]: g for g in wrapper.optimizer.param_groups}


@pytest.mark.parametrize('family', FAMILIES)
def test_rates(family):
    model = nn.ModuleDict(dict(backbone=tiny(family, frozen_stages=0), head=nn.Linear(2, 2)))
    keys = dict(head=dict(lr_mult=10.0))
    groups = rates(model, dict(layer_decay_rate=RATE, norm_decay_mult=0, custom_keys=keys))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert groups.keys() == trained
    for name, group in groups.items():
        depth, depths = model['backbone'].get_layer_depth(name, 'backbone.')
        full = 10.0 if name.startswith('head') else 1.0
        assert group['lr'] == pytest.approx(full * RATE ** (depths - 1 - depth))
    assert {group['weight_decay'] for group in groups.values()} == {0, 0.1}


def test_errors():
    model = nn.ModuleDict(dict(backbone=nn.Linear(2, 2)))
    with pytest.raises(UsageError, match='needs a backbone with get_layer_depth'):
        rates(model, dict(layer_decay_rate=RATE))
    model = nn.ModuleDict(dict(backbone=tiny(FAMILIES[0])))
    for rate in (0, 1.5):
        with pytest.raises(UsageError, match=r'layer_decay_rate must be in \(0, 1\], got'):
            rates(model, dict(layer_decay_rate=rate))


def test_mmpretrains_constructor():
    """It asks a classifier, which asks its backbone."""
    from mmpretrain.models import ImageClassifier
    from mmpretrain.utils import register_all_modules

    register_all_modules(False)
    backbone = tiny(FAMILIES[0])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        head = dict(type='LinearClsHead', num_classes=2, in_channels=2)
        model = ImageClassifier(backbone, head=head)
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1),
            constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=RATE),
        ),
    )
    stem = wrapper.optimizer.param_groups[0]
    _, depths = backbone.get_layer_depth('')
    assert stem['lr'] == pytest.approx(RATE ** (depths - 1))
