"""Initialisation of ResT from scratch."""

import pytest
from torch import nn

from mmrest import ResT


def test_start_from_scratch():
    network = ResT('lite')
    network.init_weights()
    for layer in (
        network.stage4[0].attn.kv,
        network.patch_embed_4.conv,
        network.stage1[0].attn.sr,
    ):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.bias.abs().max() == 0
    for module in network.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            assert (module.weight == 1).all() and (module.bias == 0).all()
