"""Runs of many processes: on GPUs as mmengine has them, on the CPU with gloo."""

import hashlib
import os
import time
from typing import Any, Callable, List, TypeVar
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, get_rank, init_dist, is_distributed
from mmengine.registry import MODEL_WRAPPERS
from mmengine.utils.dl_utils import set_multi_processing
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from .config import type_name
from .errors import UsageError
from .sharding import is_sharded

Result = TypeVar('Result')

LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}
"""What each launcher leaves in the environment, and what the launcher is called."""


def check_launcher(launcher: str) -> None:
    """Make sure that a process was started by the launcher that its command line names.

    Raises:
        UsageError: it was not.
    """
    variable, program = LAUNCHERS.get(launcher, (None, None))
    if variable is not None and variable not in os.environ:
        raise UsageError(
            f'--launcher {launcher} is for programs that {program} started; leave it out'
        )


def join_processes(cfg: Config) -> None:
    """Meet the other processes of a run, over gloo where there is no accelerator.

    mmengine's runners would do it later, and set a CUDA device whatever the backend.

    Args:
        cfg: config of the run; without a launcher nothing happens.

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
        with mock.patch.object(torch.cuda, 'set_device'):
            init_dist(cfg.launcher, **group)
        return
    here = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if torch.cuda.is_available() and here > torch.cuda.device_count():
        raise UsageError(
            f'{here} processes were started, but there are {torch.cuda.device_count()} GPU(s) on '
            'this machine; start one process a GPU'
        )
    init_dist(cfg.launcher, **group)


def leave_processes() -> None:
    """Part from the other processes, where they all end."""
    if is_distributed():
        # A thread of gloo may still hold a tensor of the last exchange, and to let go of it while
        # the interpreter shuts down aborts the process. While this one sleeps it can.
        time.sleep(0.2)
        distributed.destroy_process_group()


def use_cpu_wrapper(cfg: Config) -> None:
    """Have the models of a run of many processes be wrapped for the CPU.

    mmengine tells the wrappers to use the GPU of the process's number.
    """
    if cfg.get('runner_type') == 'FlexibleRunner':
        if cfg.get('strategy') is None:
            cfg.strategy = dict(type='DDPStrategy')
        sharded = is_sharded(cfg)
        if not sharded and type_name(cfg.strategy) != 'DDPStrategy':
            return
        if cfg.strategy.get('model_wrapper') is None:
            cfg.strategy.model_wrapper = {}
        wrapper = cfg.strategy.model_wrapper
    else:
        if cfg.get('model_wrapper_cfg') is None:
            cfg.model_wrapper_cfg = {}
        wrapper, sharded = cfg.model_wrapper_cfg, False
    if sharded:
        wrapper.setdefault('type', 'MMFullyShardedDataParallel')
        wrapper['device_id'] = 'cpu'
        if cfg.strategy.get('state_dict_cfg') == 'full':
            # As mmengine spells it, but for the offloading: on the CPU there is nothing to copy,
            # and FSDP frees or overwrites what it believes it has copied.
            whole = dict(rank0_only=True, offload_to_cpu=False)
            cfg.strategy.state_dict_cfg = dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(whole, type='FullStateDictConfig'),
                optim_state_dict_config=dict(whole, type='FullOptimStateDictConfig'),
            )
        return
    if not wrapper:  # as mmengine has it where a config says nothing
        wrapper['broadcast_buffers'] = False
        wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    wrapper.setdefault('type', 'MMDistributedDataParallel')
    kind = wrapper['type']
    kind = MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind
    if kind is not None and issubclass(kind, DistributedDataParallel):
        wrapper['device_ids'] = None


def of_first_process(function: Callable[..., Result], *args: Any) -> Result:
    """What a function returns in the first process, for all of them.

    Processes on several machines may see a shared folder in several states.
    """
    result: List[Any] = [function(*args) if get_rank() == 0 else None]
    broadcast_object_list(result)
    return result[0]


def is_first_to_say(message: str) -> bool:
    """Whether no other process of a run has said the same before, as far as can be known."""
    try:
        if is_distributed():
            store = distributed.distributed_c10d._get_default_store()
        elif os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True':
            # torchrun keeps a store, in which its processes meet later.
            address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
            store = distributed.TCPStore(address, port, is_master=False)
        else:
            return True
        return store.add('mmrest/' + hashlib.sha256(message.encode()).hexdigest(), 1) == 1
    except Exception:  # whatever has become of the others: better twice than not at all
        return True
