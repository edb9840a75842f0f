"""Models sharded by FSDP."""

import copy

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import FUNCTIONS, MODELS, STRATEGIES
from mmengine.runner import Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..models import rest, rmt
from .compat import clean_tensor_name
from .config import type_name
from .errors import UsageError


def is_sharded(cfg: Config) -> bool:
    """Return True if a run shards its model with FSDP."""
    strategies = ('FSDPStrategy', 'UnshardedFSDPStrategy')
    return type_name(cfg.get('strategy') or {}) in strategies


def check_sharding(cfg: Config) -> None:
    """Make sure that FSDP supports what a config asks for.

    Without a launcher there is nothing to shard: the run continues without FSDP.

    Raises:
        UsageError: gradients would be clipped.
    """
    if not is_sharded(cfg):
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


@FUNCTIONS.register_module()
def wrap_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Policy of FSDP: each block of a backbone is a unit, the rest of the model another one."""
    return recurse or isinstance(module, (rest.Block, rmt.Block))


@STRATEGIES.register_module()
class UnshardedFSDPStrategy(FSDPStrategy):
    """FSDPStrategy that resumes from unsharded checkpoints, also of runs without FSDP.

    mmengine passes arguments in an order that torch gave up with 2.1.
    """

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of the optimizer."""
        optimizer = self.optim_wrapper.optimizer
        if any(isinstance(key, int) for key in state_dict['state']):
            # Without FSDP an optimizer numbers its parameters; with FSDP they have names.
            names = {id(p): clean_tensor_name(n) for n, p in self.model.named_parameters()}
            now = [names[id(p)] for group in optimizer.param_groups for p in group['params']]
            then = [key for group in state_dict['param_groups'] for key in group['params']]
            name_of = dict(zip(then, now))
            state_dict = dict(
                state={name_of[key]: state for key, state in state_dict['state'].items()},
                param_groups=[
                    dict(group, params=[name_of[key] for key in group['params']])
                    for group in state_dict['param_groups']
                ],
            )
        self.optim_wrapper.load_state_dict(
            FullyShardedDataParallel.optim_state_dict_to_load(
                model=self.model, optim=optimizer, optim_state_dict=state_dict
            )
        )


def unwrapped(runner: Runner) -> nn.Module:
    """Return the model of a runner without wrappers; for an FSDP model, a meta-device copy.

    The copy has the names and shapes of all tensors. Asking FSDP for them gathers the values, too,
    and on some ranks only.
    """
    model = runner.model
    if isinstance(model, FullyShardedDataParallel):
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(runner.cfg.model))
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
