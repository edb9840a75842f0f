"""Steps of the blocks that spare memory: the plain results and gradients."""

import copy
import platform
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrest.models.lean import add_into, conv_norm, gated, gelu_of
from mmrest.ops import forced_backend, use_backend
from tests.models.networks import KINDS, gradients, randomised, tiny


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


class Adapted(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize('size', [(1, 1), (16, 17)])
@pytest.mark.parametrize(
    'conv',
    [
        Adapted(6, 8, 3, padding=1),
        nn.Conv2d(6, 8, 3, padding=1, groups=2),
        nn.Conv2d(6, 8, 3, padding=2, dilation=2),
        nn.Conv2d(6, 8, 3, padding='same'),
        nn.Conv2d(6, 8, 3, padding=1, padding_mode='replicate'),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 8, 3, padding=1)),
    ],
    ids=str,
)
def test_conv_norm_with_a_convolution_that_was_put_in_its_place(conv, size):
    norm, x = nn.BatchNorm2d(8).eval(), torch.randn(2, 6, *size)
    with torch.no_grad():
        torch.testing.assert_close(conv_norm(conv, norm, x), norm(conv(x)))


def test_conv_norm_uses_the_statistics_at_hand():
    conv, norm = nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8).eval()
    x = torch.randn(2, 6, 16, 17)
    with torch.no_grad():
        before = conv_norm(conv, norm, x)
        norm.running_mean += 1
        assert torch.allclose(conv_norm(conv, norm, x), before - (1 + norm.eps) ** -0.5)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('elements', [0, 2**22])
def test_a_network_is_the_plain_one(kind, elements, monkeypatch):
    monkeypatch.setattr('mmrest.models.by_rows.LARGE_ELEMENTS', elements)
    network = randomised(tiny(kind)).double()
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


@pytest.mark.parametrize('kind', KINDS)
def test_a_block_is_recomputed_as_it_was_computed(kind):
    """Also when the backward pass runs after the context that chose the backend has ended."""
    network = tiny(kind, with_cp=True).train()
    with use_backend('reference'):
        outputs = network(torch.randn(2, 3, 66, 45))
    sum(output.square().mean() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('recorded', [True, False])
def test_hooks_see_what_the_plain_form_computes(kind, recorded, monkeypatch):
    """Once a module, whole maps, and none that is overwritten later."""
    monkeypatch.setattr('mmrest.models.by_rows.LARGE_ELEMENTS', 0)
    network, image = randomised(tiny(kind)).double().eval(), torch.randn(2, 3, 66, 45).double()
    seen = {None: [], 'reference': []}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _, __, out, name=name: seen[forced_backend()].append((name, out))
        )
    for backend in seen:
        with use_backend(backend), torch.set_grad_enabled(recorded):
            network(image)
    assert [name for name, _ in seen[None]] == [name for name, _ in seen['reference']]
    for (_, found), (_, expected) in zip(*seen.values()):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('kind', KINDS)
def test_the_first_choice_holds_when_blocks_are_recomputed(kind):
    network = tiny(kind, with_cp=True).train()
    outputs = network(torch.randn(2, 3, 66, 45))
    with use_backend('reference'):
        sum(output.square().mean() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_gated_in_two_types():
    gate, x = torch.randn(3, 4).bfloat16(), torch.randn(3, 4)
    with torch.no_grad():
        assert gated(gate, x).dtype is torch.float32


FAULTS = """
import resource
import torch
from mmrest.models.lean import keep_heap

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    maps = [torch.ones(2**22) for _ in range(3)]  # 16 MB each
    del maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(), faults()
before = faults()
keep_heap()
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='about the malloc of glibc')
def test_keep_heap():
    done = subprocess.run(
        [sys.executable, '-c', FAULTS], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert after < before / 10
