"""The same outputs and gradients under every wrapper, at a size above every threshold."""

import contextlib
import functools
import itertools
import math
import subprocess

import pytest
import torch
from torch import nn

from mmrest import RMT, ResT
from mmrest.ops import use_backend
from mmrest.ops.blocks import block_elements
from tests.forks import warm_folder
from tests.models import wrapped
from tests.ops.exactness import FEW
from tests.runs import ROOT
from tests.torch_versions import needs_torch

families = pytest.mark.parametrize('family', [ResT, RMT])
TOLERANCE = 1e-6
"""Relative to the norm of a tensor, in float64; zero gradients have rounding errors."""


@functools.lru_cache(maxsize=None)
def plain(family, **options):
    """A step of the plain form of the bare network."""
    with use_backend('reference'):
        return wrapped.step(wrapped.network_of(family, **options), wrapped.named)


def error(found, expected):
    """Of a tensor, relative to its norm."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def assert_same(found, expected):
    """Outputs, and the gradient of every parameter."""
    outputs, weights = found
    assert len(outputs) == len(expected.outputs)
    for a, b in zip(outputs, expected.outputs):
        assert error(a, b) <= TOLERANCE
    wrong = {
        name: error(weights[name], weight)
        for name, weight in expected.weights.items()
        if not error(weights[name], weight) <= TOLERANCE
    }
    assert not wrong


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr('mmrest.ops.blocks.CPU_BLOCK_ELEMENTS', wrapped.BLOCK_ELEMENTS)


def test_the_size_is_above_every_threshold():
    """Some rows of the maps are computed at a time."""
    stage_2, stage_3 = (math.prod(side // stride for side in wrapped.SIZE) for stride in (8, 16))
    heads = wrapped.ARCH['num_heads']
    limit = block_elements(torch.device('cpu'))
    assert heads[1] * stage_2 * (stage_2 // 16) > 3 * limit  # EMSA, whose keys are reduced
    assert stage_3**2 > 2 * limit  # one head of full MaSA


@pytest.mark.parametrize('name, with_cp, family', [
    # Compiling takes minutes, so most of it is for the long tests.
    pytest.param(*case, marks=pytest.mark.slow)
    if case[0] == 'torch.compile' and case[1:] != (False, RMT)
    else case
    for case in itertools.product(['alone', *wrapped.LOCAL], (False, True), (ResT, RMT))
])  # fmt: skip
def test_in_one_process(name, with_cp, family):
    if wrapped.missing(name):
        pytest.skip(wrapped.missing(name))
    network = wrapped.network_of(family, with_cp=with_cp)
    wrap = wrapped.LOCAL.get(name, lambda network: network)
    assert_same(wrapped.step(wrap(network), wrapped.named), plain(family))


@pytest.fixture(scope='module')
def distributed(tmp_path_factory):
    """Results of two processes on the same batch."""
    path = tmp_path_factory.mktemp('distributed') / 'steps'
    program = [warm_folder() / 'python', '-m', 'tests.models.wrapped']
    processes = [
        subprocess.Popen(
            [*program, str(rank), '2', str(path)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=900)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), '\n'.join(said)
    return [torch.load(f'{path}.{rank}', weights_only=False) for rank in range(2)]


@families
@pytest.mark.parametrize('with_cp', [False, True], ids=['', 'with_cp'])
@pytest.mark.parametrize('name', wrapped.DISTRIBUTED)
def test_in_two_processes(name, with_cp, family, distributed):
    if wrapped.missing(name):
        pytest.skip(wrapped.missing(name))
    for steps in distributed:
        assert_same(steps[family.__name__, name, with_cp], plain(family))


@families
@pytest.mark.parametrize('frozen_stages', [0, 2])
def test_frozen_stages(frozen_stages, family):
    options = dict(frozen_stages=frozen_stages)
    found = wrapped.step(wrapped.network_of(family, **options), wrapped.named)
    assert_same(found, plain(family, **options))


@families
def test_layers_exchanged_learn(family):
    """Parameters added to a layer get gradients, too."""
    network = wrapped.exchanged(wrapped.network_of(family))
    _, weights = wrapped.step(network, wrapped.named)
    added = [weight for name, weight in weights.items() if name.endswith('up.weight')]
    assert len(added) == 2
    assert all(weight.norm() > 0 for weight in added)


def watched(network):
    """Return a list that takes the name of each module that is called, in order."""
    seen = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    return seen


@families
@pytest.mark.parametrize('device, with_cp', [('cpu', False), ('cpu', True), ('meta', False)])
def test_nothing_runs_twice(device, with_cp, family):
    """The backward pass calls no module again unless with_cp asks for it."""
    network = wrapped.network_of(family, with_cp=with_cp).to(device)
    seen = watched(network)
    outputs = network(torch.randn(1, 3, 64, 96, dtype=torch.float64, device=device))
    forward = len(seen)
    sum(output.sum() for output in outputs).backward()
    assert (len(seen) > forward) == with_cp


@families
def test_recomputation_keeps_the_backend_of_the_forward_pass(family):
    """In every backward pass."""
    network = wrapped.network_of(family, with_cp=True)
    with use_backend('reference'):
        outputs = network(wrapped.images().double())
    for output in outputs:  # torch compares what is recomputed
        output.sum().backward(retain_graph=True)


@needs_torch(2, 5, 'batched attention on a CPU')
@families
def test_transforms_of_torch_func(family):
    network = wrapped.network_of(family).eval()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)

    def loss(image):
        return network(image[None])[-1].square().sum()

    found = torch.func.vmap(torch.func.grad(loss))(images)
    for image, gradient in zip(images, found):
        image.requires_grad_()
        (expected,) = torch.autograd.grad(loss(image), image)
        torch.testing.assert_close(gradient, expected)


class Normed(nn.Sequential):
    """Projection with a norm, in float32 as autocast on a GPU returns it."""

    def forward(self, x):
        return super().forward(x).float()


@families
@pytest.mark.parametrize('training', [False, True])
def test_norms_of_queries_and_keys_under_autocast(family, training):
    network = wrapped.network_of(family, torch.float32)
    for module in list(network.modules()):
        for projection in {'q', 'k', 'q_proj', 'k_proj'} & dict(module.named_children()).keys():
            linear = getattr(module, projection)
            norm = nn.LayerNorm(linear.out_features)
            setattr(module, projection, Normed(linear, norm))
    with torch.autocast('cpu', torch.bfloat16), torch.set_grad_enabled(training):
        outputs = network(wrapped.images())
    assert all(output.isfinite().all() for output in outputs)
    if training:
        sum(output.float().sum() for output in outputs).backward()


@families
def test_hooks_see_the_same_as_in_the_reference(family):
    """The same calls at any size, with the same values; and hooks change nothing."""

    def seen_by_hooks():
        network, values = wrapped.network_of(family), {}
        calls = watched(network)
        for name, module in network.named_modules():
            if not list(module.children()):
                module.register_forward_hook(
                    lambda _, inputs, output, name=name: values.update(
                        {f'{name} in': inputs[0].detach(), f'{name} out': output.detach()}
                    )
                )
        found = wrapped.step(network, wrapped.named)
        return found, list(calls), values

    found, calls, values = seen_by_hooks()
    with use_backend('reference'):
        _, expected_calls, expected = seen_by_hooks()
    assert_same(found, plain(family))
    assert calls == expected_calls
    for name, value in expected.items():
        assert error(values[name], value) <= TOLERANCE, name
    network = wrapped.network_of(family)
    of_small_images = watched(network)
    network(torch.randn(1, 3, 32, 40, dtype=torch.float64))
    assert of_small_images == calls
    with_parameters = {name.rpartition('.')[0] for name, _ in network.named_parameters()}
    # The convolution over the heads is a part of the attention.
    assert all(name.endswith('transform_conv') for name in with_parameters - set(calls))


@families
@pytest.mark.parametrize('with_cp', [False, True], ids=['', 'with_cp'])
def test_autocast(with_cp, family):
    """The error to float32 is about that of the reference in the same dtypes."""
    exact = plain(family)
    steps = []
    for backend in (None, 'reference'):
        context = use_backend(backend) if backend else contextlib.nullcontext()
        with context, torch.autocast('cpu', torch.bfloat16):
            network = wrapped.network_of(family, torch.float32, with_cp=with_cp)
            steps.append(wrapped.step(network, wrapped.named))
    ours, theirs = steps
    tensors = itertools.chain(
        zip(ours.outputs, theirs.outputs, exact.outputs),
        ((ours.weights[n], theirs.weights[n], weight) for n, weight in exact.weights.items()),
    )
    for our, their, truth in tensors:
        times = 4.5 if truth.numel() <= FEW else 3
        allowed = times * error(their, truth) + torch.finfo(torch.bfloat16).eps
        # Beyond 1 there is nothing but rounding, as in the biases before a norm.
        assert error(our, truth) <= allowed or error(their, truth) > 1
