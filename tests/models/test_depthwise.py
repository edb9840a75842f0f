"""Depthwise convolutions of five columns: close to torch's own, and only where they suit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_weight

from mmrest.models.depthwise import by_columns, depthwise
from mmrest.models.rmt import DWConv2d
from mmrest.ops import use_backend
from tests.ops.exactness import assert_as_exact

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason='this torch has no oneDNN'
)


@pytest.fixture
def conv():
    return nn.Conv2d(12, 12, 5, padding=2, groups=12)


@pytest.fixture
def image():
    return torch.randn(2, 12, 9, 14, requires_grad=True)


def is_by_columns(out):
    return out.grad_fn.name() == '_DepthwiseBackward'


def convolved(x, weight, bias=None):
    padding = [side // 2 for side in weight.shape[2:]]
    return F.conv2d(x, weight, bias, padding=padding, groups=len(weight))


@pytest.mark.parametrize('has_bias', [True, False])
@pytest.mark.parametrize('last', [True, False], ids=['channels last', 'channels first'])
@pytest.mark.parametrize('kernel', [(5, 5), (1, 5), (9, 5)], ids=str)
@pytest.mark.parametrize('shape', [(2, 24, 13, 29), (1, 17, 1, 6), (3, 8, 5, 1)], ids=str)
def test_nearly_as_exact_as_torch(shape, kernel, last, has_bias):
    channels = shape[1]
    tensors = [torch.randn(shape), torch.randn(channels, 1, *kernel)]
    tensors += [torch.randn(channels)] * has_bias

    def ours(x, *parameters):
        memory_format = torch.channels_last if last else torch.contiguous_format
        return by_columns(x.contiguous(memory_format=memory_format), *parameters)

    # The sums of oneDNN's narrow kernels have larger roundings than torch's for wide ones.
    assert_as_exact(ours, convolved, [each.double() for each in tensors], torch.float32, times=4)


def test_large_map():
    """torch sums the gradient of a wide kernel in parts, which is more exact by some times."""
    tensors = [torch.randn(1, 16, 97, 113), torch.randn(16, 1, 5, 5), torch.randn(16)]
    assert_as_exact(by_columns, convolved, [each.double() for each in tensors], torch.float32, 12)


def test_gradients_are_of_three_columns(conv, image, monkeypatch):
    """In which oneDNN is fast."""
    widths = []

    def seen(x, shape, *args, **kwargs):
        widths.append(shape[-1])
        return conv2d_weight(x, shape, *args, **kwargs)

    monkeypatch.setattr('mmrest.models.depthwise.conv2d_weight', seen)
    depthwise(conv, image).sum().backward()
    assert widths == [3, 3]


def test_those_of_the_attention(image):
    tokens = image.permute(0, 2, 3, 1)
    lce, cpe = DWConv2d(12, 5), DWConv2d(12, 3)
    names = []
    for layer in (lce, cpe):
        node = layer(tokens).grad_fn
        names.append(node.next_functions[0][0].name())
    assert names == ['_DepthwiseBackward', 'ConvolutionBackward0']


def test_result_may_be_overwritten(conv, image):
    leaves = [image, *conv.parameters()]
    found = torch.autograd.grad(depthwise(conv, image).add_(image).square().sum(), leaves)
    expected = torch.autograd.grad((conv(image) + image).square().sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_gradients_of_frozen_tensors_are_left_out(conv, image):
    conv.weight.requires_grad_(False)
    out = depthwise(conv, image * 1)
    assert [each is None for each in out.grad_fn.saved_tensors] == [True, False]
    out.sum().backward()
    assert conv.weight.grad is None and image.grad is not None
    conv.weight.requires_grad_(True)
    out = depthwise(conv, image.detach())
    assert [each is None for each in out.grad_fn.saved_tensors] == [False, True]


def test_gradients_without_that_of_the_bias(conv, image):
    conv.bias.requires_grad_(False)
    depthwise(conv, image).sum().backward()
    assert conv.bias.grad is None and conv.weight.grad is not None


@pytest.mark.parametrize('samples', [0, 2])
def test_backward_under_autocast(conv, samples):
    image = torch.randn(samples, 12, 9, 14, requires_grad=True)
    leaves = [image, *conv.parameters()]
    out = depthwise(conv, image).square().sum()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = torch.autograd.grad(out, leaves)
    expected = torch.autograd.grad(conv(image).square().sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_no_second_derivative(conv, image):
    (grad,) = torch.autograd.grad(depthwise(conv, image).square().sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


@pytest.mark.parametrize(
    'other',
    [
        dict(kernel_size=3, padding=1),
        dict(kernel_size=7, padding=3),
        dict(kernel_size=4, padding=2),
        dict(kernel_size=(4, 5), padding=2),
        dict(padding=1),
        dict(padding='same'),
        dict(padding_mode='circular'),
        dict(stride=2),
        dict(dilation=2),
        dict(groups=6),
        dict(out_channels=24),
    ],
    ids=str,
)
def test_other_convolutions_are_called(other, image):
    conv = nn.Conv2d(**{**dict(in_channels=12, out_channels=12, kernel_size=5, padding=2,
                               groups=12), **other})  # fmt: skip
    out = depthwise(conv, image)
    assert not is_by_columns(out) and torch.equal(out, conv(image))


def test_contexts_in_which_the_convolution_is_called(conv, image, monkeypatch):
    assert is_by_columns(depthwise(conv, image))
    with use_backend('reference'):
        assert not is_by_columns(depthwise(conv, image))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert depthwise(conv, image).dtype is torch.bfloat16
    with torch.no_grad():
        assert torch.equal(depthwise(conv, image), conv(image))
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, 'enabled', False)
        assert not is_by_columns(depthwise(conv, image))
    seen = []
    conv.register_forward_hook(lambda *_: seen.append(True))
    depthwise(conv, image)
    assert seen
