"""Effective receptive field: which pixels the middle of a feature map depends on, and how much."""

from typing import Iterable, List, NamedTuple

import torch
from torch import Tensor, nn


class ReceptiveField(NamedTuple):
    """The effective receptive field of a feature map.

    Attributes:
        strength: of each pixel, (H, W); the largest is 1.
        half: the smallest share of the pixels that holds half of the squared strength.
    """

    strength: Tensor
    half: float


def receptive_fields(network: nn.Module, images: Iterable[Tensor]) -> List[ReceptiveField]:
    """Effective receptive fields of the maps of a backbone (Luo et al., NeurIPS 2016).

    The strength of a pixel is the root of the mean, over images, channels of the map's middle and
    colours, of the squared derivative of the former by the latter. The sum over channels is taken
    in one backward pass an image: for random signs s with independent channels, the square of
    ``d (sum_c s_c y_c) / d x`` is on average ``sum_c (d y_c / d x)^2``. A plain sum of the
    channels would not do, because it is constant behind a layer norm.

    Args:
        network: a backbone that gives maps (1, C, h, w), in evaluation mode.
        images: normalised, (1, 3, H, W) each, all of one size.

    Returns:
        One for each map.
    """
    squares: List[Tensor] = []
    for number, image in enumerate(images):
        found = squared_gradients(network, image, number)
        squares = [a + b for a, b in zip(squares, found)] if squares else found
    return [ReceptiveField((each / each.max()).sqrt(), half_share(each)) for each in squares]


def squared_gradients(network: nn.Module, image: Tensor, seed: int = 0) -> List[Tensor]:
    """Squared derivative of the signed sum of the channels in the middle of each map.

    Args:
        network: see :func:`receptive_fields`.
        image: (1, 3, H, W).
        seed: of the signs.

    Returns:
        (H, W) for each map, summed over colours, in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    image = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        maps = network(image)
    found = []
    for number, each in enumerate(maps):
        middle = each[0, :, each.shape[2] // 2, each.shape[3] // 2]
        signs = 1 - 2 * torch.randint(2, middle.shape, generator=generator)
        (grad,) = torch.autograd.grad(
            middle, image, signs.to(middle), retain_graph=number + 1 < len(maps)
        )
        found.append(grad[0].double().square().sum(0))
    return found


def half_share(values: Tensor) -> float:
    """The smallest share of the elements of a tensor, none negative, that holds half its sum."""
    largest_first = values.flatten().sort(descending=True).values
    needed = int((largest_first.cumsum(0) < values.sum() / 2).sum()) + 1
    return needed / values.numel()
