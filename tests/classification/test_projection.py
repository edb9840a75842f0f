"""The necks of RMT for classification, and the backbone before them."""

import pytest
import torch

from mmrest import RMT
from mmrest.classification.projection import RMTProjection, RMTTokenProjection
from tests.models.networks import tiny


@pytest.mark.parametrize('tokens, channels', [('last', 6), ('projected', 10)])
def test_neck_returns_averages_and_tokens(tokens, channels):
    neck = RMTTokenProjection(6, 10, tokens=tokens).eval()
    last = torch.randn(2, 6, 3, 4)
    averages, handed = neck([None, last])
    assert handed.shape == (2, channels, 3, 4)
    if tokens == 'last':
        assert handed is last
    else:
        torch.testing.assert_close(handed.mean((2, 3)), averages)
    projected = neck.act(neck.norm(neck.proj(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))
    torch.testing.assert_close(averages, projected.mean((2, 3)))


def test_unknown_tokens():
    with pytest.raises(ValueError, match="tokens must be 'last' or 'projected', got 'first'"):
        RMTTokenProjection(6, tokens='first')


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
