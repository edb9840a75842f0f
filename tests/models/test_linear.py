"""Linear layers through oneDNN: as exact as torch's own, and only where that suits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from mmrest.models.linear import FEW, by_onednn, linear
from mmrest.ops import use_backend
from tests.ops.exactness import assert_as_exact, spread

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason='this torch has no oneDNN'
)

SHAPES = [(1, FEW, 64, 64), (2, 7, 13, 64, 256), (97, 33, 7), (1, 5, 334, 1, 3), (3, 41, 5, 1)]
"""(..., channels, channels of the result)."""


@pytest.fixture
def layer():
    return nn.Linear(5, 7)


@pytest.fixture
def tokens():
    return torch.randn(2, FEW, 5, requires_grad=True)


def is_by_onednn(out):
    return out.grad_fn.name() == '_LinearBackward'


@pytest.mark.parametrize('has_bias', [True, False])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_as_exact_as_torch(shape, has_bias):
    *tokens, channels, results = torch.Size(shape)
    tensors = [torch.randn(*tokens, channels), torch.randn(results, channels)]
    tensors += [torch.randn(results)] * has_bias

    def ours(x, weight, bias=None):
        return by_onednn(spread(x), weight, bias)

    assert_as_exact(ours, F.linear, [each.double() for each in tensors], torch.float32)


def test_layer(layer, tokens):
    out = linear(layer, tokens)
    assert is_by_onednn(out)
    torch.testing.assert_close(out, layer(tokens))


def test_result_may_be_overwritten(layer, tokens):
    """As autograd allows it for the result of a linear layer."""
    leaves = [tokens, *layer.parameters()]
    found = torch.autograd.grad(linear(layer, tokens).add_(1).square().sum(), leaves)
    expected = torch.autograd.grad(layer(tokens).add_(1).square().sum(), leaves)
    torch.testing.assert_close(found, expected)


def test_gradients_of_frozen_tensors_are_left_out(layer, tokens):
    layer.weight.requires_grad_(False)
    linear(layer, tokens).sum().backward()  # whose gradient has no memory of its own
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((7,), 2.0 * FEW))
    torch.testing.assert_close(tokens.grad, layer.weight.sum(0).expand_as(tokens))


def test_backward_under_autocast_is_as_exact(layer, tokens):
    leaves = [tokens, *layer.parameters()]
    out = linear(layer, tokens).square().sum()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = torch.autograd.grad(out, leaves)
    expected = torch.autograd.grad(layer(tokens).square().sum(), leaves)
    torch.testing.assert_close(found, expected)


def test_no_second_derivative(layer, tokens):
    (grad,) = torch.autograd.grad(linear(layer, tokens).square().sum(), tokens, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    'change',
    [
        lambda layer: parametrizations.weight_norm(layer),
        lambda layer: layer.double(),
        lambda layer: nn.Sequential(layer, nn.ReLU()),
        lambda layer: Doubled(5, 7),
    ],
    ids=['parametrized', 'of another type', 'replaced', 'of another class'],
)
def test_other_layers_are_called(layer, tokens, change):
    layer = change(layer)
    x = tokens.to(next(layer.parameters()).dtype)
    out = linear(layer, x)
    assert not is_by_onednn(out) and torch.equal(out, layer(x))


def test_few_tokens_are_left_to_the_layer(layer, tokens):
    assert not is_by_onednn(linear(layer, tokens[0, 1:]))


def test_contexts_in_which_the_layer_is_called(layer, tokens, monkeypatch):
    with use_backend('reference'):
        assert not is_by_onednn(linear(layer, tokens))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert linear(layer, tokens).dtype is torch.bfloat16
    monkeypatch.setattr(torch.backends.mkldnn, 'enabled', False)
    assert not is_by_onednn(linear(layer, tokens))


def test_meta_device(layer):
    out = linear(layer.to('meta'), torch.randn(2, FEW, 5, device='meta'))
    assert out.shape == (2, FEW, 7)
