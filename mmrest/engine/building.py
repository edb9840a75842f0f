"""Build the runner and the model of a config, and find types by name."""

import contextlib
import copy
import sys
from typing import Any, Callable, Dict, Iterable, List, Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, RUNNERS, Registry
from mmengine.runner import Runner
from rich.console import Console
from torch import nn

from ..errors import UsageError, explained
from ..operators import describe
from .compat import use_datasets
from .config import default_scope, make_resumable, without_sync_bn
from .display import DisplayHook, ScreenRunner
from .distributed import check_sharding, use_cpu_wrapper


def build_runner(cfg: Config, verbose: bool = False) -> Runner:
    """Build mmengine's Runner, or the config's own, adapted to this machine.

    SyncBN needs CUDA and a process group; without them it is replaced by BN.

    Args:
        cfg: config of the run, which is changed.
        verbose: log to a terminal as mmengine does, without the screen of
            :mod:`mmrest.engine.display`.
    """
    make_resumable(cfg)
    check_sharding(cfg)
    alone = cfg.launcher == 'none'
    reverted = without_sync_bn(cfg) if alone or not torch.cuda.is_available() else 0
    if not alone and get_device() == 'cpu':
        use_cpu_wrapper(cfg)
    # A fixed stream, because ScreenRunner redirects sys.stdout.
    console = None if verbose or not sys.stdout.isatty() else Console(file=sys.stdout)
    if 'runner_type' in cfg:
        runner, console = RUNNERS.build(cfg), None
    else:
        runner = type('ScreenRunner', (ScreenRunner,), {'console': console}).from_cfg(cfg)
    runner.register_hook(DisplayHook(console))
    runner.logger.info(f'MMCV ops: {describe()}')
    if reverted:
        lacking = 'a process group' if torch.cuda.is_available() else 'CUDA'
        runner.logger.info(
            f'replaced {reverted} SyncBN layers of the config with BN: SyncBN needs {lacking}'
        )
    return runner


def set_up(
    cfg: Config,
    phases: Iterable[str],
    datasets: Optional[Dict[str, Any]] = None,
    verbose: bool = False,
) -> Runner:
    """Build a runner with its loops, so that a fault of the config is found before the run starts.

    Args:
        cfg: config of the run.
        phases: phases of the run, of 'train', 'val' and 'test'.
        datasets: datasets that the run takes over, by phase.
        verbose: see :func:`build_runner`.

    Raises:
        UsageError: a part cannot be built.
    """
    with explained('the run cannot be set up', 'correct its config'):
        runner = build_runner(cfg, verbose)
        use_datasets(runner, datasets or {})
        # FlexibleRunner has no screen.
        with getattr(runner, 'on_screen', contextlib.nullcontext)():
            for phase in phases:
                getattr(runner, f'{phase}_loop')  # builds it
    return runner


def check_model(cfg: Config, as_run: bool = False) -> nn.Module:
    """Build the model of a config, to find errors before anything is written.

    With `as_run`, the model gets the config's ``data_preprocessor``, as from mmengine's Runner.

    Returns:
        The model in training mode, on the meta device if it can be built there.

    Raises:
        UsageError: it cannot be built.
    """
    cfg = copy.deepcopy(cfg)
    without_sync_bn(cfg)  # building MMSyncBN needs a process group
    preprocessor = cfg.get('data_preprocessor') if as_run else None
    shared = {} if preprocessor is None else dict(data_preprocessor=preprocessor)
    with default_scope(cfg):
        for device in ('meta', 'cpu'):  # some models compute while they are built
            try:
                with torch.device(device):
                    model = MODELS.build(copy.deepcopy({**shared, **cfg.model}))
                model.train()  # returns None for some mmdet backbones
                return model
            except Exception as error:  # whatever a constructor raises
                fault = error
    with explained(f'the model of {cfg.filename} cannot be built'):
        raise fault


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneLayerDecayConstructor(DefaultOptimWrapperConstructor):
    """DefaultOptimWrapperConstructor with layer-wise learning-rate decay.

    In addition to mmengine's keys, ``paramwise_cfg`` accepts ``layer_decay_rate``. The learning
    rate of a parameter at depth d of n is multiplied by ``layer_decay_rate ** (n - 1 - d)``. Necks
    and heads keep the full rate. The constructors in mmdet and mmseg support only ConvNeXt and
    BEiT; mmpretrain's supports only classifiers.

    Raises:
        UsageError: the rate is not in (0, 1], or the backbone has no ``get_layer_depth``.
    """

    def add_params(
        self, params: List[dict], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        super().add_params(params, module, prefix, **kwargs)
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if prefix or rate is None:  # only the outermost call, for the model, scales the rates
            return
        backbone = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise UsageError(
                'paramwise_cfg.layer_decay_rate needs a backbone with get_layer_depth, which '
                f'{type(backbone).__name__} does not have; remove it or use ResT or RMT'
            )
        if not 0 < rate <= 1:
            raise UsageError(f'paramwise_cfg.layer_decay_rate must be in (0, 1], got {rate!r}')
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for group in params:
            name = names[id(group['params'][0])]
            depth, depths = backbone.get_layer_depth(name, 'backbone.')
            group['lr'] = group.get('lr', self.base_lr) * rate ** (depths - 1 - depth)


def find_type(root: Registry, name: Any) -> Optional[Callable[..., Any]]:
    """Return the class registered under a name in the default scope, if any; or a class as is."""
    if not isinstance(name, str):
        return name
    with root.switch_scope_and_registry(None) as registry:
        return registry.get(name)


def image_channels(model: nn.Module) -> int:
    """Return the number of image channels that the first convolution expects; 3 without one."""
    stacked = 1
    for module in model.modules():
        if type(module).__name__ == 'Focus':  # of YOLOX: stacks 2 x 2 pixels
            stacked = 4
        if isinstance(module, nn.Conv2d):
            return module.in_channels // stacked
    return 3
