"""Effective receptive fields and principal components of feature maps."""

from typing import Iterable, List, NamedTuple

import torch
from torch import Tensor, nn


class ReceptiveField(NamedTuple):
    """Effective receptive field of a feature map.

    Attributes:
        strength: per pixel, (H, W); the largest is 1.
        half: smallest fraction of the pixels that holds half of the squared strength.
    """

    strength: Tensor
    half: float


def receptive_fields(network: nn.Module, images: Iterable[Tensor]) -> List[ReceptiveField]:
    """Return the effective receptive field of each backbone map (Luo et al., NeurIPS 2016).

    The strength of a pixel is the root mean square of the derivatives of the channels at the
    map's centre with respect to the pixel, over images, channels and colours. One backward pass
    per image is enough: for independent random signs s, the expected square of
    ``d (sum_c s_c y_c) / d x`` is ``sum_c (d y_c / d x)^2``. Without signs, the sum over the
    channels would be constant after a layer norm.

    Args:
        network: a backbone that returns maps (1, C, h, w), in evaluation mode.
        images: normalised images, (1, 3, H, W) each, all of the same size.
    """
    squares: List[Tensor] = []
    for number, image in enumerate(images):
        generator = torch.Generator().manual_seed(number)
        image = image.detach().clone().requires_grad_()
        with torch.enable_grad():
            maps = network(image)
        squares = squares or [image.new_zeros(image.shape[2:], dtype=torch.float64) for _ in maps]
        for square, feature_map in zip(squares, maps):
            centre = feature_map[0, :, feature_map.shape[2] // 2, feature_map.shape[3] // 2]
            signs = 1 - 2 * torch.randint(2, centre.shape, generator=generator)
            (grad,) = torch.autograd.grad(centre, image, signs.to(centre), retain_graph=True)
            square += grad[0].double().square().sum(0)
    fields = []
    for square in squares:
        shares = square.flatten().sort(descending=True).values.cumsum(0)
        half = int((shares < square.sum() / 2).sum()) + 1
        fields.append(ReceptiveField((square / square.max()).sqrt(), half / square.numel()))
    return fields


class Components(NamedTuple):
    """Principal components of a feature map.

    Attributes:
        colours: the first three components as red, green and blue, each scaled to [0, 1],
            (h, w, 3).
        explained: fraction of the variance that each component explains, (3,).
    """

    colours: Tensor
    explained: Tensor


def principal_components(features: Tensor) -> Components:
    """Return the first three principal components of a feature map's tokens.

    The sign of a component is arbitrary; its largest loading is made positive.

    Args:
        features: feature map, (C, h, w); components beyond min(C, h w) are zero.
    """
    height, width = features.shape[1:]
    tokens = features.flatten(1).T.double()
    tokens = tokens - tokens.mean(0)
    _, singular, directions = torch.linalg.svd(tokens, full_matrices=False)
    directions = directions[:3]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    scores = tokens @ (directions * largest.sign()).T
    variance = singular.square()
    components = Components(torch.zeros(height, width, 3), torch.zeros(3))
    for number, score in enumerate(scores.T):
        if variance[number] > 1e-12 * variance.sum():
            span = score.max() - score.min()
            components.colours[..., number] = ((score - score.min()) / span).view(height, width)
            components.explained[number] = variance[number] / variance.sum()
    return components
