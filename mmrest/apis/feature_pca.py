"""Feature maps as pictures of three colours: their three principal components."""

from typing import NamedTuple

import torch
from torch import Tensor


class Components(NamedTuple):
    """The principal components of a feature map.

    Attributes:
        colours: red, green and blue are the first, second and third component, each from its
            least to its largest value, in [0, 1], (h, w, 3).
        explained: which part of the variance over the map each of them is, (3,).
    """

    colours: Tensor
    explained: Tensor


def principal_components(features: Tensor) -> Components:
    """The three principal components of the tokens of a feature map.

    The sign of a component, which is free, is chosen so that its largest loading is positive.

    Args:
        features: (C, h, w) of any C, h and w; components beyond min(C, h w) are zero.
    """
    height, width = features.shape[1:]
    tokens = features.flatten(1).T.double()
    tokens = tokens - tokens.mean(0)
    _, singular, directions = torch.linalg.svd(tokens, full_matrices=False)
    directions = directions[:3]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    scores = tokens @ (directions * largest.sign()).T
    variance = singular.square()
    found = Components(torch.zeros(height, width, 3), torch.zeros(3))
    for number in range(len(directions)):
        score = scores[:, number]
        span = score.max() - score.min()
        if variance[number] > 1e-12 * variance.sum():
            found.colours[..., number] = ((score - score.min()) / span).view(height, width)
            found.explained[number] = variance[number] / variance.sum()
    return found
