"""Small networks of both families and of all kinds of RMT, and helpers."""

import pytest
import torch

from mmrest import RMT, ResT

STAGES = dict(dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4))
SWIN = dict(
    base='swin_t', dims=(8, 16), depths=(1, 2), num_heads=(1, 2), ffn_ratios=(4, 4),
    decay_b=(8, 8), axial=(True, False), layer_scale=(None, None), drop_path_rate=0,
)  # fmt: skip
TINY = {
    ResT: STAGES,
    RMT: dict(STAGES, layer_scale=(None, None, 0.5, 0.5)),
    'swin': SWIN,
    'deit': dict(base='deit_s', dims=(16,), depths=(3,), num_heads=(2,), drop_path_rate=0),
}
FAMILIES = [ResT, RMT]
families = pytest.mark.parametrize('family', FAMILIES)
KINDS = list(TINY)
"""The families, and the names of RMT's ablation networks."""


def family_of(kind):
    """The class of a kind of network."""
    return kind if kind in FAMILIES else RMT


def tiny(kind, **kwargs):
    """A small network with all kinds of parts of its family, or a small ablation network."""
    return family_of(kind)(TINY[kind], **kwargs)


def official(name, **kwargs):
    """A network of the papers, such as 'rmt_t'."""
    family, arch = name.split('_', 1)
    return dict(rest=ResT, rmt=RMT)[family](arch, **kwargs)


def equal(state, other, start=''):
    """True if the tensors of a state dict whose names begin so are there and equal in another."""
    names = [name for name in state if name.startswith(start)]
    return names != [] and all(torch.equal(state[name], other[name]) for name in names)


def gradients(network, x):
    """Outputs for `x` and the gradient of every parameter for a loss of all outputs."""
    network.zero_grad()
    outputs = network(x)
    # A mean of the plain outputs would be constant behind a layer norm.
    sum((output * output.detach().cos()).sum() for output in outputs).backward()
    return outputs, {n: p.grad for n, p in network.named_parameters()}


def randomised(network):
    """Return the network with all parameters changed, so that all of them have an effect."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network
