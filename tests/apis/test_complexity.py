"""Parameters and multiply-adds."""

import pytest
import torch
from torch import nn

from mmrest import RMT, ResT
from mmrest.apis.complexity import count
from mmrest.ops import BACKENDS, use_backend

# In G at 224 x 224: all products of the backbone.
MACS = {
    'rest_lite': 1.533,
    'rest_small': 2.093,
    'rest_base': 4.625,
    'rest_large': 8.359,
    'rmt_t': 2.611,
    'rmt_s': 4.750,
    'rmt_b': 10.346,
    'rmt_l': 19.455,
    'rmt_swin_t': 4.551,
    'rmt_swin_s': 8.763,
    'rmt_deit_s': 4.574,
}


def backbone(name):
    family, arch = name.split('_', 1)
    with torch.device('meta'):
        return {'rest': ResT, 'rmt': RMT}[family](arch)


@pytest.mark.parametrize('name', MACS)
def test_backbones(name):
    parameters, macs = count(backbone(name), 224, 224)
    assert macs / 1e9 == pytest.approx(MACS[name], rel=0.01)
    assert parameters == sum(p.numel() for p in backbone(name).parameters())


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', ['rest_lite', 'rmt_t'])
def test_whatever_attention_is_active(name, backend):
    """On a device where the fused forms run, unlike the meta device."""
    network = {'rest_lite': ResT, 'rmt_t': RMT}[name](name.split('_')[1])
    with use_backend(backend):
        assert count(network, 224, 224).macs / 1e9 == pytest.approx(MACS[name], rel=0.01)


def test_convolution_by_hand():
    parameters, macs = count(nn.Conv2d(3, 8, 3, padding=1), 10, 20)
    assert (parameters, macs) == (8 * 27 + 8, 8 * 27 * 200)


def test_attention_is_counted():
    """Fused and plain attention count alike."""

    class Attention(nn.Module):
        def __init__(self, fused):
            super().__init__()
            self.q, self.fused = nn.Conv2d(3, 8, 1), fused

        def forward(self, x):
            q = self.q(x).flatten(2).transpose(1, 2)[:, None]
            if self.fused:
                return nn.functional.scaled_dot_product_attention(q, q, q)
            return (q @ q.transpose(-2, -1)).softmax(-1) @ q

    macs = [count(Attention(fused), 6, 5).macs for fused in (True, False)]
    assert macs[0] == macs[1] == 8 * 3 * 30 + 2 * 30 * 30 * 8
