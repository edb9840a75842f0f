"""Layer norm under autocast, before layers that it runs in half precision."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmrest.models.layers import LayerNorm
from mmrest.ops.autograd import autocast_dtype, autocast_off
from tests.torch_versions import needs_simulated_gpu

HALF = torch.bfloat16


def norm_and_input(dtype, device='cpu'):
    norm = LayerNorm(24, eps=1e-6, device=device)
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter)
    return norm, torch.randn(5, 7, 24, device=device).to(dtype).requires_grad_()


@pytest.mark.parametrize('given', [HALF, torch.float32])
def test_the_result_has_the_dtype_of_autocast(given):
    """Value and gradients are those of float32, up to the rounding of the result and weights."""
    norm, x = norm_and_input(given)
    with torch.autocast('cpu', HALF):
        found = norm(x)
    assert found.dtype is HALF
    if given is HALF:  # no float32 but in the statistics
        halves = [parameter.to(HALF) for parameter in norm.parameters()]
        assert torch.equal(found, F.layer_norm(x, (24,), *halves, norm.eps))
    wide = [x.detach().float().requires_grad_(), *norm.parameters()]
    expected = F.layer_norm(wide[0], (24,), *wide[1:], norm.eps)
    tolerance = dict(rtol=0, atol=4 * torch.finfo(HALF).eps * float(expected.detach().abs().max()))
    torch.testing.assert_close(found.float(), expected, **tolerance)
    grads = torch.autograd.grad(found.float().square().sum(), (x, *norm.parameters()))
    truth = torch.autograd.grad(expected.square().sum(), wide)
    for grad, exact, leaf in zip(grads, truth, (x, *norm.parameters())):
        assert grad.dtype is leaf.dtype
        error = (grad.float() - exact).abs().max() / exact.abs().max()
        assert error < 8 * torch.finfo(HALF).eps


def test_nothing_else_changes_without_autocast():
    for dtype in (torch.float32, torch.float64):
        norm, x = norm_and_input(dtype)
        plain = F.layer_norm(x, (24,), *norm.to(dtype).parameters(), norm.eps)
        assert torch.equal(norm(x), plain)
        with torch.autocast('cpu', HALF):
            kept = norm(x).dtype
        assert kept is (HALF if dtype is torch.float32 else dtype)
    with torch.autocast('cpu', HALF):
        norm, x = norm_and_input(torch.float32, 'meta')
        assert norm(x).dtype is torch.float32


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
        norm, x = norm_and_input(given, 'cuda')
        weights_of_layers = [torch.empty(24, 24, device='cuda') for _ in range(3)]
        casts.sizes.clear()
        with monkeypatch.context() as patched:
            patched.setattr(torch.cuda, 'is_available', lambda: True)
            patched.setattr(torch.cuda, 'is_bf16_supported', lambda *_: True)
            autocast = torch.autocast('cuda', HALF)
        with autocast:
            normed = norm(x)
            assert {F.linear(normed, weight).dtype for weight in weights_of_layers} == {HALF}
    assert casts.sizes.count(x.numel()) == casts_of_maps
