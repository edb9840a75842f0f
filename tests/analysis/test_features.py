"""Effective receptive fields and principal components of feature maps."""

import pytest
import torch
from torch import nn

from mmrest.apis import principal_components, receptive_fields
from tests.models.networks import FAMILIES, randomised, tiny


class Convolutions(nn.Module):
    """Two maps: of a 3x3 convolution, and of a second one with stride 2."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3, padding=1, stride=2)

    def forward(self, x):
        first = self.first(x)
        return first, self.second(first)


def test_support_of_convolutions():
    """Fields are 3 x 3 at the centre, and 5 x 5 for the centre of the second map."""
    found = receptive_fields(Convolutions(), [torch.randn(1, 3, 16, 20) for _ in range(3)])
    for field, first, last in zip(found, [[7, 9], [6, 8]], [[9, 11], [10, 12]]):
        where = (field.strength > 0).nonzero()
        assert field.strength.max() == 1
        assert where.amin(0).tolist() == first and where.amax(0).tolist() == last


def test_random_signs_measure_every_channel():
    """Their mean square is the sum of the squared derivatives of all channels."""
    network, image = Convolutions(), torch.randn(1, 3, 8, 8)
    middle = torch.autograd.functional.jacobian(lambda x: network(x)[1][0, :, 2, 2], image)
    expected = middle.square().sum((0, 1, 2))
    strength = receptive_fields(network, [image] * 600)[1].strength
    difference = strength.square() - expected / expected.max()
    assert difference.abs().max() < 0.2


@pytest.mark.parametrize('family', FAMILIES)
def test_of_our_backbones(family):
    """Their layer norms do not cancel it, and it grows with the stages."""
    network = randomised(tiny(family)).eval()
    found = receptive_fields(network, [torch.randn(1, 3, 64, 96)])
    assert len(found) == 4 and all(field.strength.isfinite().all() for field in found)
    assert found[0].half < found[3].half
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize('weights, half', [(torch.ones(10, 10), 0.5),
                                           (torch.tensor([[0.0, 3], [1, 0]]), 0.25)])  # fmt: skip
def test_half(weights, half):
    """The smallest fraction of the pixels that holds half of the squares."""
    (field,) = receptive_fields(
        lambda image: [(image * weights).sum().view(1, 1, 1, 1)],
        [torch.ones(1, 3, *weights.shape)],
    )
    assert field.half == half and torch.equal(field.strength.float(), weights / weights.max())


def test_known_components():
    """Three directions of different variance are found in order, scaled to [0, 1]."""
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


def test_fewer_than_three_components():
    for features in (torch.ones(4, 3, 3), torch.randn(2, 5, 5), torch.randn(6, 1, 1)):
        colours, explained = principal_components(features)
        assert colours.shape == (*features.shape[1:], 3) and colours.isfinite().all()
        assert explained.sum() < 1 + 1e-6
