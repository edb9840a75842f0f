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


class MaSA(torch.nn.Module):
    """An attention of RMT on a map (B, H, W, C), with its projection and tables."""

    def __init__(self, axial):
        super().__init__()
        self.axial = axial
        self.projection = torch.nn.Linear(4, 3 * HEADS * DIM)
        self.tables = RelPos2d(DIM, HEADS, 2, 6)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (HEADS, DIM)) for t in self.projection(x).chunk(3, -1))
        return masa(q, k, v, self.tables(*x.shape[1:3], x.device), self.axial)


class EMSA(torch.nn.Module):
    """An attention of ResT, with its projection."""

    def __init__(self):
        super().__init__()
        self.projection = torch.nn.Linear(4, 3 * HEADS * DIM)
        self.mix = torch.nn.Conv2d(HEADS, HEADS, 1)

    def forward(self, x):
        parts = self.projection(x.flatten(1, 2)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (HEADS, DIM)).transpose(1, 2) for t in parts)
        return emsa(q, k[:, :, :5], v[:, :, :5], self.mix.weight, self.mix.bias)


NETWORKS = dict(full=lambda: MaSA(False), axial=lambda: MaSA(True), emsa=EMSA)
each_network = pytest.mark.parametrize('network', NETWORKS)


@pytest.fixture
def network(request):
    torch.manual_seed(0)
    torch.compiler.reset()
    yield NETWORKS[request.param]()
    torch.compiler.reset()


def results(network, function, size):
    """Result of a network, and the gradients of its parameters."""
    torch.manual_seed(1)
    out = function(torch.randn(*size, 4))
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), list(network.parameters()))]


class Graphs:
    """A compiler that keeps its graphs: tests look at what they call."""

    def __init__(self):
        self.targets = []

    def __call__(self, graph, example_inputs):
        self.targets.append([str(node.target) for node in graph.graph.nodes])
        return torch._dynamo.lookup_backend('aot_eager')(graph, example_inputs)


@pytest.mark.parametrize('network, operator', [
    ('full', 'mmrest.masa'), ('axial', 'mmrest.masa'), ('emsa', 'mmrest.emsa'),
], indirect=['network'])  # fmt: skip
@pytest.mark.parametrize('dynamic', [False, True])
def test_compiled_graphs_contain_the_kernels(network, operator, dynamic):
    """Of static and of dynamic sizes, with the gradients of the reference."""
    graphs = Graphs()
    compiled = torch.compile(network, backend=graphs, fullgraph=True, dynamic=dynamic)
    compiled_for = []
    for size in ((2, 3, 5), (3, 4, 3)):
        with use_backend('reference'):
            wanted = results(network, network, size)
        with use_backend('triton'):
            found = results(network, compiled, size)
        for a, b in zip(found, wanted):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-4)
        compiled_for.append(len(graphs.targets))
    assert (compiled_for[0] == compiled_for[1]) == dynamic
    for targets in graphs.targets:
        assert sum(target.startswith(operator) for target in targets) == 1


@pytest.mark.parametrize('network', ['full', 'axial'], indirect=True)
def test_tables_of_static_sizes_are_constants(network):
    """Sines and cosines are not part of a graph whose sizes cannot change."""
    torch_tells = hasattr(torch.fx.experimental.symbolic_shapes, 'has_static_value')
    for dynamic, made_in_graph in ((False, not torch_tells), (True, True)):
        graphs = Graphs()
        torch.compiler.reset()
        compiled = torch.compile(network, backend=graphs, fullgraph=True, dynamic=dynamic)
        with use_backend('triton'):
            compiled(torch.zeros(1, 3, 5, 4))
        assert ('sin' in graphs.targets[0]) == made_in_graph


@pytest.mark.parametrize('network', NETWORKS, indirect=True)
def test_exported_programs_run_without_mmrest(network):
    with use_backend('triton'), pytest.raises(ValueError, match='is being exported'):
        torch.export.export(network, (torch.zeros(1, 3, 5, 4),), strict=False)
    program = torch.export.export(network, (torch.zeros(1, 3, 5, 4),), strict=False)
    assert 'mmrest' not in str(program.graph)


def arguments(name):
    shape = (1, 3, 5, HEADS, DIM) if name == 'masa' else (1, HEADS, 5, DIM)
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    if name == 'emsa':
        return (
            q,
            k,
            v,
            torch.randn(HEADS, HEADS, 1, 1, requires_grad=True),
            torch.randn(HEADS),
            1e-5,
        )
    tables = RelPos2d(DIM, HEADS, 2, 6)(3, 5, torch.device('cpu'))
    return q, k, v, tables.cos_sin, tables.log_gamma, True


@pytest.mark.parametrize('name', ['masa', 'emsa'])
def test_operators_pass_torchs_checks(name):
    """Of schema, fake tensors and gradients, with static and dynamic sizes."""
    importlib.import_module(f'mmrest.ops.{name}.triton')
    torch.manual_seed(0)
    operator = getattr(torch.ops.mmrest, name).default
    torch.library.opcheck(operator, arguments(name))


@pytest.mark.parametrize('name', ['masa', 'emsa'])
def test_gradients_of_gradients_are_refused(name):
    importlib.import_module(f'mmrest.ops.{name}.triton')
    inputs = arguments(name)
    out = getattr(torch.ops.mmrest, name)(*inputs)[0]
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


@pytest.mark.parametrize('name', ['masa', 'emsa'])
def test_no_gradient_comes_from_the_next_function(name):
    importlib.import_module(f'mmrest.ops.{name}.triton')
    inputs = arguments(name)
    Ends.apply(getattr(torch.ops.mmrest, name)(*inputs)[0]).backward()
    assert not any(x.grad is not None and x.grad.any() for x in inputs[:3])
