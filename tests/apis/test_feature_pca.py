"""Principal components of feature maps as colours."""

import torch
from mmrest.apis.feature_pca import principal_components


def test_components_that_are_known():
    """Three directions of different variance come back in their order, from 0 to 1."""
    scores = torch.randn(3, 30)
    scores = torch.linalg.qr((scores - scores.mean(1, keepdim=True)).T)[0].T
    directions = torch.linalg.qr(torch.randn(8, 3))[0]
    spread = torch.tensor([5.0, 3.0, 1.0])
    features = (directions * spread) @ scores + 7
    colours, explained = principal_components(features.view(8, 5, 6))
    torch.testing.assert_close(explained, spread**2 / 35)
    assert colours.shape == (5, 6, 3) and colours.min() == 0 and colours.max() == 1
    for number in range(3):
        direction = directions[:, number]
        sign = direction[direction.abs().argmax()].sign()
        score = scores[number].view(5, 6) * sign
        expected = (score - score.min()) / (score.max() - score.min())
        torch.testing.assert_close(colours[..., number], expected, rtol=1e-4, atol=1e-4)


def test_maps_with_less_than_three_components():
    for features in (torch.ones(4, 3, 3), torch.randn(2, 5, 5), torch.randn(6, 1, 1)):
        colours, explained = principal_components(features)
        assert colours.shape == (*features.shape[1:], 3) and colours.isfinite().all()
        assert explained.sum() < 1 + 1e-6
