"""The kernels as operators of torch.library, which compiled graphs contain; in the interpreter."""

import importlib

import pytest
import torch

from mmrest.ops import RelPos2d, emsa, masa, use_backend
from tests.torch_versions import needs_torch

pytest.importorskip('triton', '3.3')
# torch 2.7 compiles them too, but its compiler does not see that a backend is forced.
pytestmark = needs_torch(2, 14, 'compiler that sees a forced backend')

HEADS, DIM = 2, 16


class Network(torch.nn.Module):
    """An attention on a map (B, H, W, C), with its parameters."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.projection = torch.nn.Linear(4, 3 * HEADS * DIM)
        self.tables = RelPos2d(DIM, HEADS, 2, 6)
        if attention == 'emsa':
            self.mix = torch.nn.Conv2d(HEADS, HEADS, 1)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (HEADS, DIM)) for t in self.projection(x).chunk(3, -1))
        if self.attention != 'emsa':
            return masa(q, k, v, self.tables(*x.shape[1:3], x.device), self.attention == 'axial')
        q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))
        return emsa(q, k[:, :, :5], v[:, :, :5], self.mix.weight, self.mix.bias)


@pytest.fixture
def network(request):
    torch.compiler.reset()
    yield Network(request.param)
    torch.compiler.reset()


def results(network, function, size):
    """Result of a network, and the gradients of its parameters."""
    torch.manual_seed(1)
    out = function(torch.randn(*size, 4))
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), list(network.parameters()))]


every_network = pytest.mark.parametrize('network', ['full', 'axial', 'emsa'], indirect=True)


@pytest.mark.parametrize('network, dynamic', [
    ('full', True), ('emsa', False),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ('full', False), ('emsa', True), ('axial', False), ('axial', True),
    )),
], indirect=['network'])  # fmt: skip
def test_compiled_graphs_contain_the_kernels(network, dynamic):
    """Of static and of dynamic sizes, with the gradients of the reference."""
    operator = 'mmrest.emsa' if network.attention == 'emsa' else 'mmrest.masa'
    graphs = []

    def backend(graph, example_inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return torch._dynamo.lookup_backend('aot_eager')(graph, example_inputs)

    compiled = torch.compile(network, backend=backend, fullgraph=True, dynamic=dynamic)
    compiled_for = []
    for size in ((2, 3, 5), (3, 4, 3)):
        with use_backend('reference'):
            wanted = results(network, network, size)
        with use_backend('triton'):
            found = results(network, compiled, size)
        for a, b in zip(found, wanted):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-4)
        compiled_for.append(len(graphs))
    assert (compiled_for[0] == compiled_for[1]) == dynamic
    for targets in graphs:
        assert sum(target.startswith(operator) for target in targets) == 1


@every_network
def test_exported_programs_run_without_mmrest(network):
    with use_backend('triton'), pytest.raises(ValueError, match='is being exported'):
        torch.export.export(network, (torch.zeros(1, 3, 5, 4),), strict=False)
    program = torch.export.export(network, (torch.zeros(1, 3, 5, 4),), strict=False)
    assert 'mmrest' not in str(program.graph)


@pytest.fixture(params=['masa', 'emsa'])
def operation(request):
    """Operator of a kernel, and its arguments."""
    importlib.import_module(f'mmrest.ops.{request.param}.triton')
    operator = getattr(torch.ops.mmrest, request.param).default
    if request.param == 'masa':
        shape = (1, 3, 5, HEADS, DIM)
        tables = RelPos2d(DIM, HEADS, 2, 6)(3, 5, torch.device('cpu'))
        others = tables.cos_sin, tables.log_gamma, True
    else:
        shape, mix = (1, HEADS, 5, DIM), torch.randn(HEADS, HEADS, 1, 1, requires_grad=True)
        others = mix, torch.randn(HEADS), 1e-5
    return operator, (*(torch.randn(shape, requires_grad=True) for _ in range(3)), *others)


def test_operators_pass_torchs_checks(operation):
    """Of schema, fake tensors and gradients, with static and dynamic sizes."""
    torch.library.opcheck(*operation)


def test_gradients_of_gradients_are_refused(operation):
    operator, inputs = operation
    out = operator(*inputs)[0]
    with pytest.raises(RuntimeError, match='no second derivative'):
        torch.autograd.grad(out.sum(), inputs[0], create_graph=True)


class Ends(torch.autograd.Function):
    """An operation without a gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.sum()

    @staticmethod
    def backward(ctx, grad):
        return None


def test_no_gradient_comes_from_the_next_function(operation):
    operator, inputs = operation
    Ends.apply(operator(*inputs)[0]).backward()
    assert not any(x.grad is not None and x.grad.any() for x in inputs[:3])
