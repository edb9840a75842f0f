"""Classifiers that take the names of released files, without mmpretrain."""

import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from mmrest import RMT
from mmrest.checkpoint import CheckpointError
from mmrest.classification.projection import RMTProjection
from mmrest.classification.released import ReleasedNames
from tests.models.networks import TINY, tiny


class Head(BaseModule):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 5)


class Classifier(ReleasedNames):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.backbone = tiny(RMT, out_indices=(3,), output_norms=False)
        self.neck = RMTProjection(TINY[RMT]['dims'][3], 16)
        self.head = Head()

    def forward(self, inputs):
        return self.head.fc(self.neck(self.backbone(inputs))[-1])


def flat(model):
    """Its weights as released."""
    state = model.state_dict()
    names = {name: name.replace('backbone.', '').replace('neck.', '') for name in state}
    return {names[n].replace('head.fc.', 'head.'): tensor for n, tensor in state.items()}


def test_own_names():
    model = Classifier()
    state = flat(model)
    assert {'patch_embed.proj.0.weight', 'proj.weight', 'norm.running_mean', 'head.bias'} <= set(
        state
    )
    assert {model.own_name(name) for name in state} == set(model.state_dict())
    assert all(model.own_name(name) == name for name in model.state_dict())
    assert model.own_name('layers.2.Relpos.decay') == 'backbone.layers.2.Relpos.decay'
    assert model.own_name('aux_head.weight') == 'aux_head.weight'  # of token labelling


def test_weights_of_a_file_come_last(tmp_path):
    """After what the parts begin with."""
    torch.manual_seed(1)
    given = Classifier()
    torch.save({'model': flat(given)}, tmp_path / 'x.pth')
    for kind in ('Pretrained', 'PretrainedInit'):
        cfg = dict(type=kind, checkpoint=str(tmp_path / 'x.pth'))
        others = dict(type='Constant', layer='Linear', val=7.0)
        model = Classifier(init_cfg=[cfg, others])
        model.init_weights()
        for name, tensor in given.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
        assert model.init_cfg == [cfg, others]
    model = Classifier(init_cfg=others)
    model.init_weights()
    assert model.head.fc.weight.eq(7).all()


def test_all_or_nothing(tmp_path):
    state = flat(Classifier())
    del state['proj.bias']
    torch.save(state, tmp_path / 'x.pth')
    model = Classifier()
    before = model.neck.proj.weight.clone()
    with pytest.raises(CheckpointError, match=r'1 missing \(neck\.proj\.bias\)'):
        model.load_pretrained(str(tmp_path / 'x.pth'))
    assert torch.equal(model.neck.proj.weight, before)


@pytest.mark.parametrize('train', [False, True])
def test_projection(train):
    """Linear to more channels at every place, batch norm, SiLU, average."""
    torch.manual_seed(0)
    neck = RMTProjection(6, 10).double().train(train)
    x = torch.randn(3, 6, 4, 5, dtype=torch.float64)
    (found,) = neck((None, x))
    y = torch.einsum('bchw,oc->bohw', x, neck.proj.weight) + neck.proj.bias[:, None, None]
    if train:
        y = (y - y.mean((0, 2, 3), keepdim=True)) / (
            y.var((0, 2, 3), unbiased=False, keepdim=True) + neck.norm.eps
        ).sqrt()
    else:
        y = y / (1 + neck.norm.eps) ** 0.5
    torch.testing.assert_close(found, (y * y.sigmoid()).mean((2, 3)))


def test_a_backbone_without_output_norms():
    network = tiny(RMT, output_norms=False)
    assert not [name for name in network.state_dict() if name.startswith('extra_norms')]
    state = {n: t for n, t in tiny(RMT).state_dict().items() if 'extra_norms' not in n}
    network.load_state_dict(state, strict=True)
    normed = tiny(RMT)
    normed.load_state_dict(state, strict=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain, maps = network.eval()(x), normed.eval()(x)
    for stage, (before, after) in enumerate(zip(plain, maps)):
        norm = normed.output_norm(stage)
        wanted = norm(before.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(after, wanted)
