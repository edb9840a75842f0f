"""Layers computed by rows: the plain results and gradients, in pieces, with less kept."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
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
        self.calls, self.dtypes = 0, []

    def whole(self, x):
        self.calls += 1
        x = F.gelu(self.first(x))
        self.dtypes.append(x.dtype)
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
    layer.dtypes.clear()
    ours = torch.autograd.grad(found.float().sum(), wanted)
    assert found.dtype is torch.bfloat16 and set(layer.dtypes) == {torch.bfloat16}
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    for our, plain in zip(ours, torch.autograd.grad(expected.float().sum(), wanted)):
        assert our.dtype is torch.float32
        torch.testing.assert_close(our, plain, rtol=0.05, atol=0.05 * plain.abs().max().item())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_many_pieces_in_a_half_type(dtype):
    """Sums over pieces lose no digits: hardly more error than that of the whole."""
    layer, x = Layer(0).to(dtype), torch.rand(8, 40, 2, 4).to(dtype).requires_grad_()
    wanted = [x, *layer.parameters()]
    exact = copy.deepcopy(layer).double()
    exact_x = x.detach().double().requires_grad_()
    grad = torch.rand(8, 40, 2, 3).to(dtype)
    truth = torch.autograd.grad(
        exact.whole(exact_x), [exact_x, *exact.parameters()], grad.double()
    )
    errors = []
    for run in (layer, layer.whole):
        found = torch.autograd.grad(run(x), wanted, grad)
        errors.append([float((a.double() - b).norm() / b.norm()) for a, b in zip(found, truth)])
    for ours, plain in zip(*errors):
        assert ours <= 2 * plain + torch.finfo(dtype).eps


def test_weights_that_changed_since_are_refused():
    layer = Layer(1)
    loss = layer(torch.randn(2, 7, 3, 4)).sum()
    with torch.no_grad():
        layer.last.weight.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


def test_exchanged_weights_serve_both_passes():
    layer, x = Layer(1).double(), torch.randn(2, 7, 3, 4, dtype=torch.float64)
    others = {name: torch.randn_like(each) for name, each in layer.named_parameters()}
    for other in others.values():
        other.requires_grad_()
    found = functional_call(layer, others, (x,)).square().sum()
    layer.load_state_dict(others)
    expected = layer.whole(x).square().sum()
    torch.testing.assert_close(
        torch.autograd.grad(found, list(others.values())),
        torch.autograd.grad(expected, list(layer.parameters())),
    )


def test_hooks_of_parameters_see_the_whole_gradient_once():
    layer, x, seen = Layer(1).double(), torch.randn(2, 7, 3, 4, dtype=torch.float64), []
    layer.first.weight.register_hook(lambda grad: seen.append(grad) or 2 * grad)
    layer.whole(x).sum().backward()
    expected = layer.first.weight.grad.clone()
    layer.zero_grad()
    layer(x).sum().backward()
    assert len(seen) == 2
    torch.testing.assert_close(seen[1], seen[0])
    torch.testing.assert_close(layer.first.weight.grad, expected)


def test_unused_parameters():
    layer, x = Layer(1).double(), torch.randn(2, 7, 3, 4, dtype=torch.float64)
    layer.first.adapter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    layer(x).sum().backward()
    assert not layer.first.adapter.grad.any() and layer.first.weight.grad.any()


def test_replicas_without_parameters_are_whole():
    """Those of DataParallel hold plain tensors, to which gradients have to flow all the same."""
    layer, x = Layer(1).double(), torch.randn(2, 7, 3, 4, dtype=torch.float64)
    weight = layer.first._parameters.pop('weight').detach().requires_grad_()
    layer.first.weight = weight
    layer.first._is_replica = True
    layer(x).sum().backward()
    assert weight.grad.any()


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
