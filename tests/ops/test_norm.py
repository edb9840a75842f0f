"""Layer norm under autocast."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmrest.ops import layer_norm
from mmrest.ops.autograd import autocast_dtype, autocast_off
from tests.torch_versions import needs_simulated_gpu

HALF = torch.bfloat16


def arguments(dtype, device='cpu'):
    torch.manual_seed(0)
    x = torch.randn(5, 7, 24, device=device).to(dtype).requires_grad_()
    weight, bias = torch.rand(2, 24, device=device).unbind()
    return x, weight.requires_grad_(), bias.requires_grad_(), 1e-6


@pytest.mark.parametrize('given', [HALF, torch.float32])
def test_the_result_has_the_dtype_of_autocast(given):
    """Value and gradients are those of float32, up to the rounding of the result and weights."""
    x, *weights = arguments(given)
    with torch.autocast('cpu', HALF):
        found = layer_norm(x, *weights)
    assert found.dtype is HALF
    if given is HALF:  # no float32 but in the statistics
        halves = [weight.to(HALF) for weight in weights[:2]]
        assert torch.equal(found, F.layer_norm(x, (24,), *halves, weights[2]))
    *wide, eps = (x.detach().float().requires_grad_(), *weights)
    expected = F.layer_norm(wide[0], (24,), *wide[1:], eps)
    tolerance = dict(rtol=0, atol=4 * torch.finfo(HALF).eps * float(expected.detach().abs().max()))
    torch.testing.assert_close(found.float(), expected, **tolerance)
    grads = torch.autograd.grad(found.float().square().sum(), (x, *weights[:2]))
    truth = torch.autograd.grad(expected.square().sum(), wide)
    for grad, exact, leaf in zip(grads, truth, (x, *weights)):
        assert grad.dtype is leaf.dtype
        error = (grad.float() - exact).abs().max() / exact.abs().max()
        assert error < 8 * torch.finfo(HALF).eps


def test_nothing_else_changes_without_autocast():
    for dtype in (torch.float32, torch.float64):
        x, *weights = (a.to(dtype) if torch.is_tensor(a) else a for a in arguments(dtype))
        assert torch.equal(layer_norm(x, *weights), F.layer_norm(x, (24,), *weights))
        with torch.autocast('cpu', HALF):
            kept = layer_norm(x, *weights).dtype
        assert kept is (HALF if dtype is torch.float32 else dtype)
    with torch.autocast('cpu', HALF):
        assert layer_norm(*arguments(torch.float32, 'meta')).dtype is torch.float32


@pytest.mark.parametrize('device', ['cpu', 'meta', 'mps'])
def test_autocast_is_off_on_any_device(device):
    """Also where torch has no autocast to disable."""
    with torch.autocast('cpu', HALF), autocast_off(torch.device(device)):
        assert (autocast_dtype(torch.device('cpu')) is HALF) == (device != 'cpu')


class Casts(TorchDispatchMode):
    """Numbers of elements that are cast."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default:
            self.sizes.append(args[0].numel())
        return function(*args, **(kwargs or {}))


@needs_simulated_gpu
@pytest.mark.parametrize('given, casts_of_maps', [(HALF, 0), (torch.float32, 1)])
def test_no_map_is_cast_twice_on_a_gpu(monkeypatch, given, casts_of_maps):
    """Layers behind the norm share one cast, at most; a GPU is simulated."""
    with FakeTensorMode(), Casts() as casts, torch.no_grad():
        x, *weights = arguments(given, 'cuda')
        weights_of_layers = [torch.empty(24, 24, device='cuda') for _ in range(3)]
        casts.sizes.clear()
        with monkeypatch.context() as patched:
            patched.setattr(torch.cuda, 'is_available', lambda: True)
            patched.setattr(torch.cuda, 'is_bf16_supported', lambda *_: True)
            autocast = torch.autocast('cuda', HALF)
        with autocast:
            normed = layer_norm(x, *weights)
            assert {F.linear(normed, weight).dtype for weight in weights_of_layers} == {HALF}
    assert casts.sizes.count(x.numel()) == casts_of_maps
