"""The necks of RMT for classification."""

import pytest
import torch

from mmrest.classification.projection import RMTTokenProjection


@pytest.mark.parametrize('tokens, channels', [('last', 6), ('projected', 10)])
def test_neck_hands_on_averages_and_tokens(tokens, channels):
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
