"""The same outputs and gradients under every wrapper, at a size above every threshold.

As a program it is one process of a distributed run, ``test_wrappers RANK WORLD FILE``: it steps
with every wrapper of :data:`DISTRIBUTED` and saves what :func:`step` gives.
"""

import contextlib
import copy
import functools
import itertools
import math
import subprocess
import sys
from datetime import timedelta
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from mmrest import RMT, ResT
from mmrest.engine.distributed import wrap_blocks
from mmrest.models.rest import Block as ResTBlock
from mmrest.models.rmt import Block as RMTBlock
from mmrest.ops import blocks, use_backend
from tests.forks import warm_folder
from tests.models.networks import families, randomised
from tests.ops.exactness import FEW
from tests.runs import ROOT
from tests.torch_versions import VERSION, needs_torch

ARCH = dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
ARCHS = {ResT: ARCH, RMT: dict(ARCH, axial=(True, True, False, False))}
SIZE = 192, 208
BLOCK_ELEMENTS = 2**13
"""So few that images of this size are above every threshold: their maps are made in blocks."""

RATE = 1e3
"""Of learning, so large that the weights after a step are the gradients."""


class Step(NamedTuple):
    """Outputs of a network, and its weights after a step of plain gradient descent."""

    outputs: Tuple[Tensor, ...]
    weights: Dict[str, Tensor]


def network_of(family, dtype=torch.float64, **options):
    """Return a network in training mode, with the same changed weights for a family."""
    torch.manual_seed(5)
    return randomised(family(ARCHS[family], **options).train()).to(dtype)


def images():
    """One batch."""
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(7))


def step(wrapped: nn.Module, weights_of: Callable[[nn.Module], Dict[str, Tensor]]) -> Step:
    """Forward, backward, and a step of the optimizer."""
    optimizer = torch.optim.SGD(wrapped.parameters(), RATE)
    dtype = next(wrapped.parameters()).dtype
    outputs = wrapped(images().to(dtype))
    # A mean of the plain outputs would be constant behind a layer norm.
    loss = sum((output.to(dtype) * output.detach().to(dtype).cos()).sum() for output in outputs)
    loss.backward()
    optimizer.step()
    return Step(tuple(output.detach() for output in outputs), weights_of(wrapped))


def named(wrapped: nn.Module) -> Dict[str, Tensor]:
    """Copies of the parameters, under the names of the bare network."""
    return {
        _bare(name): parameter.detach().clone() for name, parameter in wrapped.named_parameters()
    }


def _bare(name: str) -> str:
    for wrapper in ('_orig_mod.', '_fsdp_wrapped_module.', 'module.', 'network.'):
        name = name.replace(wrapper, '')
    return name


def _sharded(wrapped: FSDP) -> Dict[str, Tensor]:
    with FSDP.summon_full_params(wrapped):
        return named(wrapped)


def _unsharded(wrapped: nn.Module) -> Dict[str, Tensor]:
    return {name: tensor.full_tensor() for name, tensor in named(wrapped).items()}


class Replica(nn.Module):
    """The network in DataParallel: copies whose parameters are not leaves."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        return _replica_of(self.network)(x)


def _replica_of(module: nn.Module) -> nn.Module:
    """Copy of a module like torch's `replicate` on a second GPU."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        replica._modules[name] = None if child is None else _replica_of(child)
    for name, parameter in module._parameters.items():
        setattr(replica, name, None if parameter is None else parameter.view_as(parameter))
    return replica


def adapted(layer: nn.Module) -> nn.Module:
    """As LoRA of a linear layer or a 1x1 convolution: adds a product, initialised to 0."""

    class Adapted(type(layer)):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.up(x)

    up = copy.deepcopy(layer)
    up.bias = None
    nn.init.zeros_(up.weight)
    layer.__class__, layer.up = Adapted, up
    return layer


def exchanged(network: nn.Module) -> nn.Module:
    """The network with such layers: a projection, an MLP's first, and the mix of the heads."""
    for block in network.blocks(1):
        rest = isinstance(block, ResTBlock)
        attention, mlp = (block.attn, block.mlp) if rest else (block.retention, block.ffn)
        projection = 'q' if rest else 'q_proj'
        setattr(attention, projection, adapted(getattr(attention, projection)))
        if rest:
            attention.transform_conv = adapted(attention.transform_conv)
        mlp.fc1 = adapted(mlp.fc1)
    return network


def compiled(network: nn.Module) -> nn.Module:
    """Through the compiler's graph, forward and backward, without a C++ compiler behind it."""
    torch._dynamo.reset()
    return torch.compile(network, backend='aot_eager')


LOCAL = {
    'replica of DataParallel': Replica,
    'torch.compile': compiled,
    'AveragedModel': AveragedModel,
    'layers exchanged': exchanged,
}
"""Wrappers inside one process."""


def _fully_shard(network: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    mesh = dist.device_mesh.init_device_mesh('cpu', (dist.get_world_size(),))
    for module in network.modules():
        if isinstance(module, (ResTBlock, RMTBlock)):
            fully_shard(module, mesh=mesh)
    return fully_shard(network, mesh=mesh)


by_size = functools.partial(size_based_auto_wrap_policy, min_num_params=10_000)


def _fsdp(network: nn.Module, use_orig_params: bool, policy: Callable = wrap_blocks) -> FSDP:
    return FSDP(
        network,
        auto_wrap_policy=policy,
        use_orig_params=use_orig_params,
        device_id=torch.device('cpu'),
    )


DISTRIBUTED = {
    'DDP': (DistributedDataParallel, named),
    'FSDP, use_orig_params': (functools.partial(_fsdp, use_orig_params=True), _sharded),
    'FSDP, flat parameters': (functools.partial(_fsdp, use_orig_params=False), _sharded),
    'FSDP by size': (functools.partial(_fsdp, use_orig_params=True, policy=by_size), _sharded),
    'fully_shard': (_fully_shard, _unsharded),
}
"""Distributed wrappers, and how to get the weights inside."""


def missing(name: str) -> Optional[str]:
    """Return why this torch cannot run a wrapper, or None."""
    for wrapper, oldest in (('torch.compile', (2, 3)), ('FSDP', (2, 3)), ('fully_shard', (2, 7))):
        if name.startswith(wrapper) and oldest > VERSION:
            return f'torch {torch.__version__} has no {wrapper} that works here'
    return None


TOLERANCE = 1e-6
"""Relative to the norm of a tensor, in float64; zero gradients have rounding errors."""


@functools.lru_cache(maxsize=None)
def plain(family, **options):
    """A step of the plain form of the bare network."""
    with use_backend('reference'):
        return step(network_of(family, **options), named)


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
    monkeypatch.setattr('mmrest.ops.blocks.CPU_BLOCK_ELEMENTS', BLOCK_ELEMENTS)


def test_the_size_is_above_every_threshold():
    """Some rows of the maps are computed at a time."""
    stage_2, stage_3 = (math.prod(side // stride for side in SIZE) for stride in (8, 16))
    heads = ARCH['num_heads']
    limit = blocks.block_elements(torch.device('cpu'))
    assert heads[1] * stage_2 * (stage_2 // 16) > 3 * limit  # EMSA, whose keys are reduced
    assert stage_3**2 > 2 * limit  # one head of full MaSA


@pytest.mark.parametrize('name, with_cp, family', [
    # Compiling takes minutes, so most of it is for the long tests.
    pytest.param(*case, marks=pytest.mark.slow)
    if case[0] == 'torch.compile' and case[1:] != (False, RMT)
    else case
    for case in itertools.product(['alone', *LOCAL], (False, True), (ResT, RMT))
])  # fmt: skip
def test_in_one_process(name, with_cp, family):
    if missing(name):
        pytest.skip(missing(name))
    network = network_of(family, with_cp=with_cp)
    wrap = LOCAL.get(name, lambda network: network)
    assert_same(step(wrap(network), named), plain(family))


@pytest.fixture(scope='module')
def distributed(tmp_path_factory):
    """Results of two processes on the same batch."""
    path = tmp_path_factory.mktemp('distributed') / 'steps'
    program = [warm_folder() / 'python', '-m', 'tests.models.test_wrappers']
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
@pytest.mark.parametrize('name', DISTRIBUTED)
def test_in_two_processes(name, with_cp, family, distributed):
    if missing(name):
        pytest.skip(missing(name))
    for steps in distributed:
        assert_same(steps[family.__name__, name, with_cp], plain(family))


@families
@pytest.mark.parametrize('frozen_stages', [0, 2])
def test_frozen_stages(frozen_stages, family):
    options = dict(frozen_stages=frozen_stages)
    found = step(network_of(family, **options), named)
    assert_same(found, plain(family, **options))


@families
def test_layers_exchanged_learn(family):
    """Parameters added to a layer get gradients, too."""
    network = exchanged(network_of(family))
    _, weights = step(network, named)
    added = [weight for name, weight in weights.items() if name.endswith('up.weight')]
    assert len(added) == (3 if family is ResT else 2)
    assert all(weight.norm() > 0 for weight in added)


@families
def test_pruned_layers(family):
    """Their weights are set in hooks of their calls, also after new ones were loaded."""
    network = network_of(family)
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        prune.l1_unstructured(layer, 'weight', 0.3)
    for _ in range(2):
        torch.stack([out.sum() for out in network(images().double())]).sum().backward()
    network.load_state_dict({n: 1.5 * t for n, t in network.state_dict().items()})
    found = network.eval()(images().double())
    for layer in layers:
        prune.remove(layer, 'weight')
    for ours, theirs in zip(found, network(images().double())):
        torch.testing.assert_close(ours, theirs)


@families
def test_offloaded_layers(family):
    """Their forward is replaced by one that fetches their weights, as Accelerate does."""
    network = network_of(family).eval()
    expected = network(images().double())
    for layer in network.modules():
        if not [*layer.children()]:
            kept, empty = copy.deepcopy(layer), layer.to('meta')
            empty.forward = kept.forward
    for ours, theirs in zip(network(images().double()), expected):
        torch.testing.assert_close(ours, theirs)


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
    network = network_of(family, with_cp=with_cp).to(device)
    seen = watched(network)
    outputs = network(torch.randn(1, 3, 64, 96, dtype=torch.float64, device=device))
    forward = len(seen)
    sum(output.sum() for output in outputs).backward()
    assert (len(seen) > forward) == with_cp


@families
def test_recomputation_keeps_the_backend_of_the_forward_pass(family):
    """In every backward pass."""
    network = network_of(family, with_cp=True)
    with use_backend('reference'):
        outputs = network(images().double())
    for output in outputs:  # torch compares what is recomputed
        output.sum().backward(retain_graph=True)


@needs_torch(2, 5, 'batched attention on a CPU')
@families
def test_transforms_of_torch_func(family):
    network = network_of(family).eval()
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
    network = network_of(family, torch.float32)
    for module in list(network.modules()):
        for projection in {'q', 'k', 'q_proj', 'k_proj'} & dict(module.named_children()).keys():
            linear = getattr(module, projection)
            norm = nn.LayerNorm(linear.out_features)
            setattr(module, projection, Normed(linear, norm))
    with torch.autocast('cpu', torch.bfloat16), torch.set_grad_enabled(training):
        outputs = network(images())
    assert all(output.isfinite().all() for output in outputs)
    if training:
        sum(output.float().sum() for output in outputs).backward()


@families
def test_hooks_see_the_same_as_in_the_reference(family):
    """The same calls at any size, with the same values; and hooks change nothing."""

    def seen_by_hooks():
        network, values = network_of(family), {}
        calls = watched(network)
        for name, module in network.named_modules():
            if not list(module.children()):
                module.register_forward_hook(
                    lambda _, inputs, output, name=name: values.update(
                        {f'{name} in': inputs[0].detach(), f'{name} out': output.detach()}
                    )
                )
        found = step(network, named)
        return found, list(calls), values

    found, calls, values = seen_by_hooks()
    with use_backend('reference'):
        _, expected_calls, expected = seen_by_hooks()
    assert_same(found, plain(family))
    assert calls == expected_calls
    for name, value in expected.items():
        assert error(values[name], value) <= TOLERANCE, name
    network = network_of(family)
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
            network = network_of(family, torch.float32, with_cp=with_cp)
            steps.append(step(network, named))
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


def main(rank: int, world: int, path: str) -> None:
    """Steps with every distributed wrapper, with and without activation checkpointing."""
    store = dist.FileStore(f'{path}.store', world)
    dist.init_process_group(
        'gloo', store=store, rank=rank, world_size=world, timeout=timedelta(minutes=5)
    )
    blocks.CPU_BLOCK_ELEMENTS = BLOCK_ELEMENTS
    steps = {}
    for family in (ResT, RMT):
        for name, (wrap, weights_of) in DISTRIBUTED.items():
            for with_cp in (False, True):
                if not missing(name):
                    wrapped = wrap(network_of(family, with_cp=with_cp))
                    steps[family.__name__, name, with_cp] = tuple(step(wrapped, weights_of))
    torch.save(steps, f'{path}.{rank}')
    dist.destroy_process_group()


if __name__ == '__main__':
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
