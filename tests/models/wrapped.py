"""Networks inside common wrappers, and a training step with each.

As a program it is one process of a distributed run, ``wrapped RANK WORLD FILE``: it steps with
every wrapper of :data:`DISTRIBUTED` and saves what :func:`step` gives.
"""

import functools
import sys
from datetime import timedelta
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from mmrest import RMT, ResT
from mmrest.engine.distributed import wrap_blocks
from mmrest.models.rest import Block as ResTBlock
from mmrest.models.rmt import Block as RMTBlock
from mmrest.ops import blocks
from tests.models.networks import randomised
from tests.torch_versions import VERSION

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


class LowRank(nn.Linear):
    """LoRA of a linear layer: adds a low-rank product, initialised to 0."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features)
        self.weight, self.bias = layer.weight, layer.bias
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)
        self.to(layer.weight.dtype)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x))


def exchanged(network: nn.Module) -> nn.Module:
    """The network with such layers for a projection and the first layer of an MLP."""
    for block in network.blocks(1):
        rest = isinstance(block, ResTBlock)
        attention, mlp = (block.attn, block.mlp) if rest else (block.retention, block.ffn)
        projection = 'q' if rest else 'q_proj'
        setattr(attention, projection, LowRank(getattr(attention, projection)))
        mlp.fc1 = LowRank(mlp.fc1)
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
