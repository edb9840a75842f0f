"""The necks of RMT for classification, and the backbone before them."""

import pytest
import torch

from mmrest.classification.projection import RMTProjection, RMTTokenProjection


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
