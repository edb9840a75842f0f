"""Linear layers through oneDNN: as exact as torch's own, and only where that suits."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations
from torch.profiler import profile
from torch.utils.checkpoint import checkpoint

from mmrest import RMT, ResT
from mmrest.models.linear import by_onednn, linear
from mmrest.ops import use_backend
from tests.models.networks import gradients, randomised
from tests.ops.exactness import assert_as_exact, spread

pytestmark = [
    pytest.mark.usefixtures('two_threads'),
    pytest.mark.skipif(
        not torch.backends.mkldnn.is_available(), reason='this torch has no oneDNN'
    ),
]

LARGE = [(1, 521, 64, 40), (2, 33, 37, 64, 256), (3, 5, 100, 384, 1536), (97, 1025, 333)]
SMALL = [(1, 32, 64, 64), (97, 33, 7), (1, 5, 334, 1, 3), (3, 41, 5, 1)]
"""(..., channels, channels of the result); of the small ones torch convolves without oneDNN."""

SUMS = dict(rtol=1e-4, atol=1e-4)
"""Tolerance for sums over all tokens, of which a half type would miss hundredths."""


@pytest.fixture
def layer():
    return nn.Linear(48, 64)


@pytest.fixture
def tokens():
    return torch.randn(2, 300, 48, requires_grad=True)


def is_by_onednn(out):
    return out.grad_fn.name() == '_LinearBackward'


@pytest.mark.parametrize('has_bias', [True, False])
@pytest.mark.parametrize('shape', LARGE + SMALL, ids=str)
def test_as_exact_as_torch(shape, has_bias):
    *tokens, channels, results = shape
    tensors = [torch.randn(*tokens, channels), torch.randn(results, channels)]
    tensors += [torch.randn(results)] * has_bias

    def ours(x, weight, bias=None):
        return by_onednn(spread(x), weight, bias)

    # oneDNN sums over many channels in another order than MKL.
    times = 2.0 if channels < 384 else 2.5
    assert_as_exact(ours, F.linear, [each.double() for each in tensors], torch.float32, times)


def test_layer(layer, tokens):
    out = linear(layer, tokens)
    assert is_by_onednn(out)
    torch.testing.assert_close(out, layer(tokens))


def test_products_are_those_of_onednn(layer, tokens):
    """Of the result, of the gradient of the map, and of that of the weight."""
    with profile() as profiled:
        linear(layer, tokens).sum().backward()
    calls = {event.key: event.count for event in profiled.key_averages()}
    assert calls['aten::mkldnn_convolution'] == 2 and 'aten::thnn_conv2d' not in calls
    assert calls['aten::convolution_backward'] == 1
    assert not {'aten::mm', 'aten::addmm', 'aten::_slow_conv2d_backward'} & set(calls)


def test_result_may_be_overwritten(layer, tokens):
    """As autograd allows it for the result of a linear layer."""
    leaves = [tokens, *layer.parameters()]
    found = torch.autograd.grad(linear(layer, tokens).add_(1).square().sum(), leaves)
    expected = torch.autograd.grad(layer(tokens).add_(1).square().sum(), leaves)
    torch.testing.assert_close(found, expected, **SUMS)
    with torch.no_grad():
        out = linear(layer, tokens)
    assert out.add_(tokens.sum()).requires_grad
    checkpoint(lambda x: linear(layer, x), tokens, use_reentrant=True).add_(1).sum().backward()


def test_gradients_of_frozen_tensors_are_left_out(layer, tokens):
    layer.weight.requires_grad_(False)
    linear(layer, tokens).sum().backward()  # whose gradient is one number, spread
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((64,), 600.0))
    torch.testing.assert_close(tokens.grad, layer.weight.sum(0).expand_as(tokens))


def test_backward_under_autocast_is_as_exact(layer, tokens):
    leaves = [tokens, *layer.parameters()]
    out = linear(layer, tokens).square().sum()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = torch.autograd.grad(out, leaves)
    expected = torch.autograd.grad(layer(tokens).square().sum(), leaves)
    torch.testing.assert_close(found, expected, **SUMS)


def test_no_second_derivative(layer, tokens):
    (grad,) = torch.autograd.grad(linear(layer, tokens).square().sum(), tokens, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_what_serves_no_gradient_is_not_kept(layer, tokens):
    layer.weight.requires_grad_(False)
    x = tokens.detach().clone().requires_grad_()
    out = linear(layer, x * 1)
    assert [each is None for each in out.grad_fn.saved_tensors] == [True, False]
    layer.weight.requires_grad_(True)
    out = linear(layer, tokens.detach())
    assert [each is None for each in out.grad_fn.saved_tensors] == [False, True]


@pytest.mark.parametrize('family, base', [(ResT, 'lite'), (RMT, 's')])
def test_gradients_of_a_network(family, base, monkeypatch):
    network = randomised(family(dict(base=base, depths=(1, 1, 1, 1)), drop_path_rate=0))
    calls = []
    counted = functools.wraps(by_onednn)(lambda *each: calls.append(each) or by_onednn(*each))
    monkeypatch.setattr('mmrest.models.linear.by_onednn', counted)
    images = torch.randn(2, 3, 96, 160)
    found = gradients(network, images)
    number = len(calls)
    with use_backend('reference'):
        expected = gradients(network, images)
    assert 12 <= number == len(calls)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-3)
    for name, gradient in expected[1].items():
        # ResT's norm of the maps magnifies the roundings of what comes before it.
        allowed = 5e-3 * float(gradient.abs().max()) + 1e-3
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=allowed, msg=name)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Quantised(torch.Tensor):
    """A weight that has its own way to multiply."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is F.linear:
            x, weight, bias = args
            return F.linear(x, weight.as_subclass(torch.Tensor).round(), bias)
        return super().__torch_function__(function, types, args, kwargs)


def quantised(layer):
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised))
    return layer


def rebound(layer):
    called = layer.forward
    layer.forward = lambda x: 3 * called(x)
    return layer


@pytest.mark.parametrize(
    'change',
    [
        lambda layer: parametrizations.weight_norm(layer),
        lambda layer: layer.double(),
        lambda layer: nn.Sequential(layer, nn.ReLU()),
        lambda layer: Doubled(48, 64),
        quantised,
        rebound,
    ],
    ids=['parametrized', 'double', 'replaced', 'other class', 'own weight', 'other forward'],
)
def test_other_layers_are_called(layer, tokens, change):
    layer = change(layer)
    x = tokens.to(next(layer.parameters()).dtype)
    out = linear(layer, x)
    assert not is_by_onednn(out) and torch.equal(out, layer(x))


@pytest.mark.parametrize(
    'register',
    [
        nn.Linear.register_forward_hook,
        nn.Linear.register_forward_pre_hook,
        nn.Linear.register_full_backward_hook,
        nn.Linear.register_full_backward_pre_hook,
        lambda layer, hook: register_module_forward_hook(hook),
    ],
)
def test_layers_with_hooks_are_called(layer, tokens, register):
    seen = []
    handle = register(layer, lambda *_: seen.append(True))
    try:
        linear(layer, tokens).sum().backward()
    finally:
        handle.remove()
    assert seen


@pytest.mark.parametrize('shape', SMALL, ids=str)
def test_small_maps_are_left_to_the_layer(shape):
    *size, channels, results = shape
    layer = nn.Linear(channels, results)
    assert not is_by_onednn(linear(layer, torch.randn(*size, channels)))


def test_contexts_in_which_the_layer_is_called(layer, tokens, monkeypatch):
    with use_backend('reference'):
        assert not is_by_onednn(linear(layer, tokens))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert linear(layer, tokens).dtype is torch.bfloat16
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, 'enabled', False)
        assert not is_by_onednn(linear(layer, tokens))
    torch.set_num_threads(1)
    assert not is_by_onednn(linear(layer, tokens))


def test_meta_device(layer):
    out = linear(layer.to('meta'), torch.randn(2, 300, 48, device='meta'))
    assert out.shape == (2, 300, 64)
