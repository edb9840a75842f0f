"""Distributed runs: as mmengine has them on GPUs, over gloo on the CPU."""

import os
import time
from typing import Any, Callable, List, TypeVar

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, get_rank, init_dist, is_distributed
from mmengine.registry import MODEL_WRAPPERS
from mmengine.utils.dl_utils import set_multi_processing
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from .compat import without_cuda_device
from .config import type_name
from .errors import UsageError
from .sharding import is_sharded

Result = TypeVar('Result')

LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}
"""Environment variable in which each launcher passes the rank, and its command."""


def check_launcher(launcher: str) -> None:
    """Make sure that the process was started by the launcher that its command line names.

    Raises:
        UsageError: it was not.
    """
    variable, command = LAUNCHERS.get(launcher, (None, None))
    if variable is not None and variable not in os.environ:
        raise UsageError(f'--launcher {launcher} is for scripts started by {command}; drop it')


def join_processes(cfg: Config) -> None:
    """Initialise the process group of a run, over gloo if there is no accelerator.

    mmengine's runners would do it later, and select a CUDA device with any backend.

    Args:
        cfg: config of the run; without a launcher, nothing happens.

    Raises:
        UsageError: there are more processes than GPUs on this machine.
    """
    if cfg.launcher == 'none' or is_distributed():
        return
    env = cfg.get('env_cfg') or {}
    set_multi_processing(**env.get('mp_cfg', {}), distributed=True)
    group = dict(env.get('dist_cfg') or {})
    if get_device() == 'cpu':
        group['backend'] = 'gloo'
        with without_cuda_device():
            init_dist(cfg.launcher, **group)
        return
    here = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if torch.cuda.is_available() and here > torch.cuda.device_count():
        raise UsageError(
            f'{here} processes were started, but there are {torch.cuda.device_count()} GPU(s) on '
            'this machine; use one process per GPU'
        )
    init_dist(cfg.launcher, **group)


def leave_processes() -> None:
    """Leave the process group, when all ranks end."""
    if is_distributed():
        # A thread of gloo may still hold a tensor of the last exchange, and releasing it while
        # the interpreter shuts down aborts the process. It can do so while this thread sleeps.
        time.sleep(0.2)
        distributed.destroy_process_group()


def use_cpu_wrapper(cfg: Config) -> None:
    """Have the model of a distributed run be wrapped for the CPU.

    mmengine passes wrappers the GPU of the rank.
    """
    sharded = is_sharded(cfg)
    if cfg.get('runner_type') == 'FlexibleRunner':
        if cfg.get('strategy') is None:
            cfg.strategy = dict(type='DDPStrategy')
        owner, key = cfg.strategy, 'model_wrapper'
        if not sharded and type_name(owner) != 'DDPStrategy':
            return
    else:
        owner, key = cfg, 'model_wrapper_cfg'
    if owner.get(key) is None:
        # As mmengine has it for a config that says nothing.
        unused = cfg.get('find_unused_parameters', False)
        owner[key] = (
            {} if sharded else dict(broadcast_buffers=False, find_unused_parameters=unused)
        )
    wrapper = owner[key]
    if not sharded:
        wrapper.setdefault('type', 'MMDistributedDataParallel')
        kind = wrapper['type']
        kind = MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind
        if kind is not None and issubclass(kind, DistributedDataParallel):
            wrapper['device_ids'] = None
        return
    wrapper.setdefault('type', 'MMFullyShardedDataParallel')
    wrapper['device_id'] = 'cpu'
    if owner.get('state_dict_cfg') == 'full':
        # As mmengine spells it, except for the offloading: on the CPU there is nothing to copy,
        # and FSDP frees or overwrites what it believes to have copied.
        full = dict(rank0_only=True, offload_to_cpu=False)
        owner.state_dict_cfg = dict(
            state_dict_type='FULL_STATE_DICT',
            state_dict_config=dict(full, type='FullStateDictConfig'),
            optim_state_dict_config=dict(full, type='FullOptimStateDictConfig'),
        )


def of_first_process(function: Callable[..., Result], *args: Any) -> Result:
    """Return what a function returns on rank 0, on all ranks.

    Several machines may see a shared folder in several states.
    """
    result: List[Any] = [function(*args) if get_rank() == 0 else None]
    broadcast_object_list(result)
    return result[0]


def rank_prefix() -> str:
    """Return ``'[rank N] '`` for messages of all ranks but the first, joined or not."""
    ranks = (os.environ[variable] for variable, _ in LAUNCHERS.values() if variable in os.environ)
    rank = next(ranks, '0')
    return '' if rank == '0' else f'[rank {rank}] '
