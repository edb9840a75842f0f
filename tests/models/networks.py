"""Small networks of both families, and what tests do with them."""

import torch

from mmrest import RMT, ResT

TINY = {
    ResT: dict(dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4)),
    RMT: dict(
        dims=(8, 16, 24, 32),
        depths=(1, 2, 1, 1),
        num_heads=(1, 2, 3, 4),
        layer_scale=(None, None, 0.5, 0.5),
    ),
}
FAMILIES = list(TINY)


def tiny(family, **kwargs):
    """A small network with all eight kinds of parts of its family."""
    return family(TINY[family], **kwargs)


def gradients(network, x):
    """Outputs for `x` and the gradient of every parameter for a loss of all outputs."""
    network.zero_grad()
    outputs = network(x)
    # A mean of the plain outputs would be constant behind a layer norm.
    sum((output * output.detach().cos()).sum() for output in outputs).backward()
    return outputs, {n: p.grad for n, p in network.named_parameters()}


def randomised(network):
    """The network with every parameter away from its start, so that all of them matter."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network
