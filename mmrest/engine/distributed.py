"""Distributed runs, over gloo on the CPU, and FSDP."""

import copy
import os
import signal
import time
from typing import Any, Callable, List, Optional, TypeVar

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, get_rank, init_dist, is_distributed
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import FUNCTIONS, MODEL_WRAPPERS, MODELS, STRATEGIES
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import OptimStateKeyType
from torch.nn.parallel import DistributedDataParallel

from ..errors import UsageError
from ..models import rest, rmt
from .compat import without_cuda_device
from .config import type_name
from .signals import end_with

Result = TypeVar('Result')

LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}
"""Environment variable in which each launcher passes the rank, and its command."""

SHARDING = ('FSDPStrategy', 'UnshardedFSDPStrategy')
"""Strategies that shard a model with FSDP."""


def check_launcher(launcher: str) -> None:
    """Raise UsageError if the process was not started by the launcher on its command line."""
    variable, command = LAUNCHERS.get(launcher, (None, None))
    if variable is not None and variable not in os.environ:
        raise UsageError(f'--launcher {launcher} is for scripts started by {command}; drop it')


def join_processes(cfg: Config) -> None:
    """Initialise the process group of a run, over gloo if there is no accelerator.

    Without a launcher, nothing is done. mmengine's runners do this later, and select a CUDA device
    whatever the backend.

    Raises:
        UsageError: there are more processes than GPUs on this machine.
    """
    if cfg.launcher == 'none' or is_distributed():
        return
    if 'TORCHELASTIC_RUN_ID' in os.environ:  # torchrun, whose ranks would outlive a SIGKILL of it
        end_with(os.getppid(), signal.SIGTERM)
    env = cfg.get('env_cfg') or {}
    set_multi_processing(**env.get('mp_cfg', {}), distributed=True)
    group = dict(env.get('dist_cfg') or {})
    if get_device() == 'cpu':
        with without_cuda_device():
            init_dist(cfg.launcher, **{**group, 'backend': 'gloo'})
        return
    here = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if torch.cuda.is_available() and here > torch.cuda.device_count():
        raise UsageError(
            f'{here} processes were started, but there are {torch.cuda.device_count()} GPU(s) on '
            'this machine; use one process per GPU'
        )
    init_dist(cfg.launcher, **group)


def leave_processes() -> None:
    """Destroy the process group at the end of all ranks."""
    if is_distributed():
        # A thread of gloo may still hold a tensor of the last exchange, and releasing it while
        # the interpreter shuts down aborts the process. It can do so while this thread sleeps.
        time.sleep(0.2)
        distributed.destroy_process_group()


def of_first_process(function: Callable[..., Result], *args: Any) -> Result:
    """Call a function on rank 0, and return its result on all ranks.

    Machines may see a shared folder in different states. An error is raised on all ranks.
    """
    outcome: List[Any] = [None, '']
    failed: Optional[Exception] = None
    if get_rank() == 0:
        try:
            outcome[0] = function(*args)
        except Exception as error:  # the others get its text, because not all can be pickled
            failed, outcome[1] = error, str(error) or type(error).__name__
    broadcast_object_list(outcome)
    if outcome[1]:
        raise failed or UsageError(outcome[1])
    return outcome[0]


def rank_prefix() -> str:
    """Return ``'[rank N] '`` for messages of ranks above 0, before and after joining."""
    ranks = (os.environ[variable] for variable, _ in LAUNCHERS.values() if variable in os.environ)
    rank = next(ranks, '0')
    return '' if rank == '0' else f'[rank {rank}] '


def use_cpu_wrapper(cfg: Config) -> None:
    """Configure the model wrapper of a distributed run for the CPU.

    mmengine passes the GPU of the rank to wrappers.
    """
    cfg.pop('sync_bn', None)  # it would make all batch norms SyncBN
    owner, key = cfg, 'model_wrapper_cfg'
    if cfg.get('runner_type') == 'FlexibleRunner':
        if cfg.get('strategy') is None:
            cfg.strategy = dict(type='DDPStrategy')
        owner, key = cfg.strategy, 'model_wrapper'
    if type_name(cfg.get('strategy') or {}) in SHARDING:
        default = dict(type='MMFullyShardedDataParallel')
        owner[key] = {**default, **(owner.get(key) or {}), 'device_id': 'cpu'}
        if owner.get('state_dict_cfg') == 'full':
            # As mmengine resolves it, but without offloading: on the CPU nothing is copied, and
            # FSDP frees or overwrites the tensors that it assumes to be copies.
            full = dict(rank0_only=True, offload_to_cpu=False)
            owner.state_dict_cfg = dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(full, type='FullStateDictConfig'),
                optim_state_dict_config=dict(full, type='FullOptimStateDictConfig'),
            )
    elif owner is cfg or type_name(owner) == 'DDPStrategy':
        # mmengine's defaults.
        unused = cfg.get('find_unused_parameters', False)
        usual = dict(broadcast_buffers=False, find_unused_parameters=unused)
        owner[key] = dict(owner.get(key) or usual)
        owner[key].setdefault('type', 'MMDistributedDataParallel')
        kind = owner[key]['type']
        kind = MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind
        if kind is not None and issubclass(kind, DistributedDataParallel):
            owner[key]['device_ids'] = None


def check_sharding(cfg: Config) -> None:
    """Remove FSDP without a launcher; otherwise check its config.

    Raises:
        UsageError: it would clip gradients, or write sharded checkpoints.
    """
    if type_name(cfg.get('strategy') or {}) not in SHARDING:
        return
    if cfg.launcher == 'none':
        cfg.pop('strategy')
        cfg.pop('runner_type', None)
        print_log('one process: the model is not sharded', 'current')
    elif (cfg.get('optim_wrapper') or {}).get('clip_grad'):
        raise UsageError(
            'optim_wrapper.clip_grad: under FSDP each process would clip its own part of the '
            'gradients by its own norm; set optim_wrapper.clip_grad=None'
        )
    elif cfg.strategy.get('state_dict_cfg', 'local') == 'local':  # mmengine's default
        raise UsageError(
            'strategy.state_dict_cfg=local: mmrest cannot read or resume sharded checkpoints; set '
            'strategy.type=UnshardedFSDPStrategy and strategy.state_dict_cfg=full'
        )


@FUNCTIONS.register_module()
def wrap_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """FSDP wrapping policy: each block of a backbone is a unit, the rest of the model another."""
    return recurse or isinstance(module, (rest.Block, rmt.Block))


@STRATEGIES.register_module()
class UnshardedFSDPStrategy(FSDPStrategy):
    """FSDPStrategy that resumes from unsharded checkpoints, also of runs without FSDP.

    mmengine passes arguments in the order of torch < 2.1.
    """

    def load_optim_state_dict(self, state_dict: dict) -> None:
        run = dict(model=self.model, optim=self.optim_wrapper.optimizer)
        # Without FSDP an optimizer numbers its parameters; with FSDP they have names.
        named = FSDP.rekey_optim_state_dict(state_dict, OptimStateKeyType.PARAM_NAME, **run)
        sharded = FSDP.optim_state_dict_to_load(optim_state_dict=named, **run)
        self.optim_wrapper.load_state_dict(sharded)


def unwrapped(runner: Runner) -> nn.Module:
    """Return the model of a runner without wrappers; for an FSDP model, a meta-device copy.

    The copy has the names and shapes of all tensors. FSDP would also gather the values, and on
    some ranks only.
    """
    model = runner.model
    if isinstance(model, FSDP):
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(runner.cfg.model))
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
