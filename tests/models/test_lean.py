"""Steps of the blocks that spare memory: the plain results and gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrest.models.lean import add_into, conv_norm, gated, gelu_of
from mmrest.ops import use_backend
from tests.models.networks import FAMILIES, gradients, randomised, tiny


@pytest.fixture(params=[None, 'reference'])
def backend(request):
    with use_backend(request.param):
        yield request.param


def test_add_into(backend):
    branch, x = torch.randn(3, 4), torch.randn(3, 4)
    expected = branch + x
    total = add_into(branch, x)
    assert torch.equal(total, expected) and (total is branch) == (backend is None)


def test_add_into_a_half_type_does_not_round():
    branch, x = torch.randn(3, 4).bfloat16(), torch.randn(3, 4)
    assert torch.equal(add_into(branch, x), branch.float() + x)


def test_gelu_of(backend):
    x = torch.randn(50)
    expected = F.gelu(x)
    assert torch.equal(gelu_of(x.clone().requires_grad_()), expected)
    with torch.no_grad():
        assert torch.equal(gelu_of(x), expected)
        assert torch.equal(x, expected) == (backend is None)


@pytest.mark.parametrize('recorded', [True, False])
def test_gated(backend, recorded):
    gate, x = torch.randn(3, 4, requires_grad=recorded), torch.randn(3, 4)
    expected = x * gate.sigmoid()
    found = gated(gate * 1, x)
    assert torch.equal(found, expected)
    if recorded:
        (gradient,) = torch.autograd.grad(found.square().sum(), gate)
        assert torch.equal(gradient, torch.autograd.grad(expected.square().sum(), gate)[0])


NORMS = [
    nn.BatchNorm2d(8),
    nn.BatchNorm2d(8).eval(),
    nn.BatchNorm2d(8, affine=False).eval(),
    nn.BatchNorm2d(8, track_running_stats=False).eval(),
    nn.SyncBatchNorm(8).eval(),
    nn.GroupNorm(2, 8).eval(),
]


@pytest.mark.parametrize('norm', NORMS, ids=str)
@pytest.mark.parametrize('stride, bias', [(1, True), (2, False)])
@pytest.mark.parametrize('size', [(1, 1), (2, 3), (5, 4), (16, 17)])
def test_conv_norm(backend, norm, stride, bias, size):
    """The same for maps smaller and larger than the weights, with gradients and without."""
    conv = nn.Conv2d(6, 8, 3, stride=stride, padding=1, bias=bias).double()
    norm = copy.deepcopy(norm).double()
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2)
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    expected = copy.deepcopy(norm)(conv(x))
    found = conv_norm(conv, norm, x)
    torch.testing.assert_close(found, expected)
    wanted = [x, *conv.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), wanted),
        torch.autograd.grad(expected.square().sum(), wanted),
    )
    with torch.no_grad():
        torch.testing.assert_close(conv_norm(conv, norm, x), expected)


def test_conv_norm_uses_the_statistics_at_hand():
    conv, norm = nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8).eval()
    x = torch.randn(2, 6, 16, 17)
    with torch.no_grad():
        before = conv_norm(conv, norm, x)
        norm.running_mean += 1
        assert torch.allclose(conv_norm(conv, norm, x), before - (1 + norm.eps) ** -0.5)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('elements', [0, 2**22])
def test_a_network_is_the_plain_one(family, elements, monkeypatch):
    monkeypatch.setattr('mmrest.models.by_rows.LARGE_ELEMENTS', elements)
    network = randomised(tiny(family)).double()
    monkeypatch.setattr('mmrest.ops.block.CPU_BLOCK_ELEMENTS', 600)
    image = torch.randn(2, 3, 66, 45, dtype=torch.float64)
    outputs, found = gradients(network, image)
    with use_backend('reference'):
        plain_outputs, plain = gradients(network, image)
    for a, b in zip(outputs, plain_outputs):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    assert found.keys() == plain.keys()
    for name, gradient in plain.items():
        scale = gradient.abs().max() + 1
        torch.testing.assert_close(found[name] / scale, gradient / scale, rtol=0, atol=1e-9)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_block_is_recomputed_as_it_was_computed(family):
    """Also when the backward pass runs after the context that chose the backend has ended."""
    network = tiny(family, with_cp=True).train()
    with use_backend('reference'):
        outputs = network(torch.randn(2, 3, 66, 45))
    sum(output.square().mean() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
