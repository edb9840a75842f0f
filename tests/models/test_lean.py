"""Steps of the blocks that spare memory: the plain results and gradients, with less kept."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrest.models.lean import add_into, gelu_of, recomputed
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


def test_recomputed(backend, monkeypatch):
    """Once in the forward pass, again in the backward pass, and the layer at the end not again."""
    monkeypatch.setattr('mmrest.models.lean.RECOMPUTED_ELEMENTS', 20)
    linear, calls = nn.Linear(4, 3), []
    linear.register_forward_hook(lambda *_: calls.append('linear'))

    def function(x):
        calls.append('function')
        return linear(F.gelu(x))

    x = torch.randn(5, 4, requires_grad=True)
    recomputed(function, x).square().sum().backward()
    found = x.grad, linear.weight.grad
    assert calls == ['function', 'linear'] + ['function'] * (backend is None)
    x.grad = linear.weight.grad = None
    linear(F.gelu(x)).square().sum().backward()
    assert torch.equal(found[0], x.grad) and torch.equal(found[1], linear.weight.grad)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('elements', [0, 2**22])
def test_a_network_is_the_plain_one(family, elements, monkeypatch):
    monkeypatch.setattr('mmrest.models.lean.RECOMPUTED_ELEMENTS', elements)
    network = randomised(tiny(family)).double()
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
