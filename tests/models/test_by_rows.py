"""Layers computed by rows: the plain results and gradients, in pieces, with less kept."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmrest.models.by_rows import by_rows
from mmrest.ops import use_backend
from tests.ops.exactness import kept_bytes

HIDDEN = 10


@pytest.fixture(params=[1, 100, 1000], ids=lambda block: f'block-{block}', autouse=True)
def small_blocks(request, monkeypatch):
    """Pieces of one row, of some, and of more than a sample."""
    monkeypatch.setattr('mmrest.models.by_rows.LARGE_ELEMENTS', 0)
    monkeypatch.setattr('mmrest.ops.block.CPU_BLOCK_ELEMENTS', request.param // 4 + 1)


class Layer(nn.Module):
    """Two linear layers around a depthwise convolution of `halo` rows on either side."""

    def __init__(self, halo):
        super().__init__()
        self.halo = halo
        self.first = nn.Linear(4, HIDDEN)
        kernel = 2 * halo + 1
        self.middle = nn.Conv2d(HIDDEN, HIDDEN, kernel, padding=halo, groups=HIDDEN)
        self.last = nn.Linear(HIDDEN, 3)
        self.calls = 0

    def whole(self, x):
        self.calls += 1
        x = F.gelu(self.first(x))
        return self.last(self.middle(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    def forward(self, x):
        return by_rows(self.whole, [self.first, self.middle, self.last], x, HIDDEN, self.halo)


def compare(layer, x, **tolerance):
    """Results and gradients of both ways."""
    wanted = [each for each in (x, *layer.parameters()) if each.requires_grad]
    found, expected = layer(x), layer.whole(x)
    torch.testing.assert_close(found, expected, **tolerance)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, wanted, grad),
        torch.autograd.grad(expected, wanted, grad),
        **tolerance,
    )


@pytest.mark.parametrize('halo', [0, 1, 2])
@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 1, 5), (3, 7, 2), (2, 5, 4), (1, 13, 3)])
def test_equals_the_whole(halo, shape):
    layer = Layer(halo).double()
    x = torch.randn(*shape, 4, dtype=torch.float64, requires_grad=True)
    compare(layer, x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.whole(x))


def test_a_map_of_other_strides():
    layer, x = Layer(1).double(), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    compare(layer, x.requires_grad_().permute(0, 2, 3, 1).detach().requires_grad_())


def test_gradients():
    layer = Layer(1).double()
    x = torch.randn(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


def test_frozen_parts():
    layer = Layer(1)
    layer.first.requires_grad_(False)
    compare(layer, torch.randn(2, 5, 4, 4), rtol=1e-4, atol=1e-5)
    layer.requires_grad_(False)
    compare(layer, torch.randn(2, 5, 4, 4, requires_grad=True), rtol=1e-4, atol=1e-5)
    assert not layer(torch.randn(2, 5, 4, 4)).requires_grad


def test_keeps_its_argument_alone():
    layer, x = Layer(1), torch.randn(2, 9, 4, 4)
    parameters = sum(each.nbytes for each in layer.parameters())
    assert kept_bytes(layer, [x]) <= x.nbytes + parameters


def test_in_a_checkpoint():
    """Whose hooks hand other tensors to the backward pass than those that were kept."""
    layer = Layer(1).double()
    x = torch.randn(2, 7, 3, 4, dtype=torch.float64, requires_grad=True)
    wanted = [x, *layer.parameters()]
    found = checkpoint(layer, x, use_reentrant=False).square().sum()
    expected = layer.whole(x).square().sum()
    torch.testing.assert_close(
        torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted)
    )


def test_autocast_of_the_forward_pass_holds_in_the_backward_pass():
    layer, x = Layer(1), torch.randn(2, 7, 3, 4, requires_grad=True)
    wanted = [x, *layer.parameters()]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found, expected = layer(x), layer.whole(x)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    for ours, plain in zip(
        torch.autograd.grad(found.float().sum(), wanted),
        torch.autograd.grad(expected.float().sum(), wanted),
    ):
        assert ours.dtype is torch.float32
        torch.testing.assert_close(ours, plain, rtol=0.05, atol=0.05 * plain.abs().max().item())


def test_autocast_hands_no_weights_without_gradients_on():
    """Autocast keeps weights that it has cast; the forward pass casts them without gradients."""
    layer, x = Layer(1), torch.randn(2, 7, 3, 4)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        layer(x)
        layer.whole(x).float().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_no_second_derivative():
    layer, x = Layer(1), torch.randn(1, 3, 2, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.square().sum().backward()


def test_small_maps_and_the_plain_form_are_whole(monkeypatch):
    layer, x = Layer(1), torch.randn(2, 7, 3, 4)
    layer(x)
    in_pieces = layer.calls
    with use_backend('reference'):
        layer(x)
    assert layer.calls == in_pieces + 1
    monkeypatch.setattr('mmrest.models.by_rows.LARGE_ELEMENTS', x.numel() * HIDDEN)
    layer(x)
    assert layer.calls == in_pieces + 2
