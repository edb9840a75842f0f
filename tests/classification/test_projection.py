"""The necks of RMT for classification, and the backbone before them."""

import pytest
import torch

from mmrest.classification.projection import RMTProjection, RMTTokenProjection


def test_unknown_tokens():
    with pytest.raises(ValueError, match="tokens must be 'last' or 'projected', got 'first'"):
        RMTTokenProjection(6, tokens='first')


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('kind, options', [
    (RMTProjection, {}), (RMTTokenProjection, dict(tokens='last')),
    (RMTTokenProjection, dict(tokens='projected')),
])  # fmt: skip
def test_projection(kind, options, train):
    """Linear to more channels at every place, batch norm, SiLU, average."""
    neck = kind(6, 10, **options).double().train(train)
    x = torch.randn(3, 6, 4, 5, dtype=torch.float64)
    found, *tokens = neck((None, x))
    y = torch.einsum('bchw,oc->bohw', x, neck.proj.weight) + neck.proj.bias[:, None, None]
    if train:
        y = (y - y.mean((0, 2, 3), keepdim=True)) / (
            y.var((0, 2, 3), unbiased=False, keepdim=True) + neck.norm.eps
        ).sqrt()
    else:
        y = y / (1 + neck.norm.eps) ** 0.5
    y = y * y.sigmoid()
    torch.testing.assert_close(found, y.mean((2, 3)))
    for handed in tokens:
        torch.testing.assert_close(handed, x if neck.tokens == 'last' else y)
    assert len(tokens) == len(options)
