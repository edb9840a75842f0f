"""What a run builds: its runner, its network without memory or random numbers, types by name."""

import copy
from typing import Any, Callable, Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import MODELS, RUNNERS, DefaultScope, Registry
from mmengine.runner import Runner
from torch import nn

from ..operators import describe
from .config import first_line, make_resumable, without_sync_bn
from .display import DisplayHook
from .errors import UsageError
from .guard import guard_checkpoints
from .processes import use_cpu_wrapper
from .saving import save_whole
from .sharding import check_sharding


def build_runner(cfg: Config) -> Runner:
    """mmengine's Runner, or the config's own, fitted to this machine.

    SyncBN needs CUDA and a process group; without either it becomes BN.
    """
    guard_checkpoints()
    save_whole()
    make_resumable(cfg)
    check_sharding(cfg)
    reverted = 0
    if not torch.cuda.is_available() or cfg.launcher == 'none':
        reverted = without_sync_bn(cfg)
    if cfg.launcher != 'none' and get_device() == 'cpu':
        use_cpu_wrapper(cfg)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    runner.register_hook(DisplayHook())
    print_log(f'operators of mmcv: {describe()}', 'current')
    if reverted:
        lacking = 'a process group' if torch.cuda.is_available() else 'CUDA'
        print_log(
            f'SyncBN became BN at {reverted} place(s) of the config: it needs {lacking}', 'current'
        )
    return runner


def check_model(cfg: Config) -> nn.Module:
    """Make sure that the model of a config can be built, before anything is written.

    Returns:
        The model, on the meta device where it can be built there, in training mode.

    Raises:
        UsageError: it cannot; the message is the first line of what its constructor says.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        try:
            with torch.device('meta'):
                return _built(cfg)
        except Exception:  # a network that computes with values while it is built, or a fault
            pass
        try:
            return _built(cfg)
        except Exception as error:  # whatever a constructor raises
            raise UsageError(
                f'the model of {cfg.filename} cannot be built: {first_line(error)}'
            ) from error


def _built(cfg: Config) -> nn.Module:
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.train()  # which returns nothing for some of mmdet's backbones
    return model


def find_type(root: Registry, name: Optional[str]) -> Optional[Callable[..., Any]]:
    """What a type name stands for in the default scope, as building would have it."""
    if not isinstance(name, str):
        return None
    with root.switch_scope_and_registry(None) as of_scope:
        return of_scope.get(name)
