"""Checks of the optimizer and the schedule of a run."""

import copy
from typing import Optional, Tuple

from mmcv.cnn import is_norm
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS
from torch import nn

from ..engine.building import find_type
from ..engine.config import accumulation, dicts, total_batch_size, type_name
from ..errors import UsageError, counted, explained, near, some, suggestion
from .findings import Report


def check_optimizer(cfg: Config, model: nn.Module, report: Report) -> OptimWrapper:
    """Return the optimizer wrapper of a run, and warn about custom_keys with unintended effects.

    Raises:
        UsageError: it cannot be built.
    """
    kind = (cfg.optim_wrapper.get('optimizer') or {}).get('type')
    if isinstance(kind, str) and find_type(OPTIMIZERS, kind) is None:  # mmengine calls None
        remedy = suggestion(kind, OPTIMIZERS.module_dict, 'import its module with custom_imports')
        raise UsageError(f'optim_wrapper.optimizer.type: {kind} is not registered; {remedy}')
    node = copy.deepcopy(cfg.optim_wrapper)
    (node.get('optimizer') or {}).pop('fused', None)  # old torch refuses the meta device
    with explained('optim_wrapper cannot be built'):
        wrapper = build_optim_wrapper(model, node)
    paramwise = cfg.optim_wrapper.get('paramwise_cfg') or {}
    keys = paramwise.get('custom_keys') or {}
    names = [name for name, _ in model.named_parameters()]
    words = {word for name in names for word in name.split('.')}
    unused = [key for key in keys if not any(key in name for name in names)]
    report.warnings += [  # only for misspelt ones: keys for other networks are common
        f'{key} of paramwise_cfg.custom_keys is in no parameter name; did you mean {similar}?'
        for key in unused
        for similar in near(key.split('.')[-1], words, 0.85)
        if similar not in key
    ]
    if isinstance(wrapper, OptimWrapperDict) or not keys or paramwise.get('norm_decay_mult') != 0:
        return wrapper  # several optimizers, or nothing to undo
    groups = [group for group in wrapper.optimizer.param_groups if group.get('weight_decay')]
    decaying = {id(parameter) for group in groups for parameter in group['params']}
    decayed = [
        f'{name}.{kind}'
        for name, module in model.named_modules()
        for kind, parameter in module.named_parameters(recurse=False)
        if is_norm(module) and id(parameter) in decaying
    ]
    if decayed:
        undoing = [k for k, v in keys.items() if 'decay_mult' not in v and k in decayed[0]]
        report.warnings.append(
            f'weight decay applies to {len(decayed)} parameters of norms ({some(decayed, 1)}): '
            f'paramwise_cfg.custom_keys ({some(undoing or keys)}) undoes norm_decay_mult=0 for '
            'them; list the norms in custom_keys too, with decay_mult=0'
        )
    return wrapper


def check_schedule(cfg: Config, batches: int, wrapper: OptimWrapper, report: Report) -> None:
    """Report length, learning rate and schedule of a run with a number of batches per epoch.

    Raises:
        UsageError: the run has no iterations, or never evaluates, or a scheduler cannot be built.
    """
    length, by_epoch = length_of(cfg)
    batch_size = cfg.train_dataloader.get('batch_size')
    if not batches:
        raise UsageError(
            f'train_dataloader has no batch: its dataset is smaller than batch_size={batch_size}, '
            'and drop_last drops the rest; reduce batch_size or set drop_last=False'
        )
    for key in ('max_epochs', 'max_iters', *['val_interval'] * bool(cfg.get('val_dataloader'))):
        value = cfg.train_cfg.get(key, 1)
        if value is not None and (not isinstance(value, (int, float)) or value < 1):
            raise UsageError(f'train_cfg.{key} must be a positive integer, got {value!r}')
    report.add('batch', f'{batch_size} x {counted(get_world_size(), "process", "es")}')
    report.add('iterations per epoch', f'{batches:,}')
    unit = 'epochs' if by_epoch else 'iterations'
    report.add('length', f'{int(length):,} {unit}' if length else 'set by its loop')
    optimizer = cfg.optim_wrapper.get('optimizer')
    if optimizer:  # not several
        scaling = cfg.get('auto_scale_lr') or {}
        images = total_batch_size(cfg, get_world_size())[0] / accumulation(cfg)
        meant = scaling.get('enable') and scaling.get('base_batch_size')
        ratio = images / meant if meant else 1
        scaled = f' x {ratio:g} (auto_scale_lr)' if ratio != 1 else ''
        report.add('optimizer', f'{type_name(optimizer)}, lr {optimizer.get("lr")}{scaled}')
    for part in [part for _, part in dicts(cfg.get('param_scheduler'), '') if type_name(part)]:
        name, end, in_epochs = type_name(part), part.get('end'), part.get('by_epoch', True)
        unit = '' if in_epochs else ' (iterations)'
        report.add('schedule', f'{name} {part.get("begin", 0)} to {end or "the end"}{unit}')
        if name.startswith('ReduceOnPlateau') or not length:
            continue  # it steps after evaluations, or the loop is the user's own
        step = batches if in_epochs else 1
        whole = int(length) * (batches if by_epoch else 1)
        if not isinstance(wrapper, OptimWrapperDict):
            options = dict(optimizer=wrapper, epoch_length=batches, end=whole)
            with explained('param_scheduler cannot be built'):
                PARAM_SCHEDULERS.build(part, default_args=options)
        last = max([end or 0, *part.get('milestones', ())]) * step
        if in_epochs and not by_epoch and not part.get('convert_to_iter_based'):
            report.warnings.append(
                f'{name} of param_scheduler counts epochs, but the run counts iterations, so it '
                'has no effect; set by_epoch=False'
            )
        elif max(part.get('milestones', ()), default=0) * step == whole:
            report.warnings.append(
                f'the last milestone of {name} of param_scheduler is the end of the run, so it '
                'has no effect; set an earlier one'
            )
        elif last > whole:
            report.warnings.append(
                f'{name} of param_scheduler changes until iteration {last:,}, but the run has '
                f'{whole:,}; shorten the schedule, or train longer'
            )


def length_of(cfg: Config) -> Tuple[Optional[int], bool]:
    """Return the epochs or iterations of a run, if configured, and True for epochs."""
    by_epoch = cfg.train_cfg.get('max_epochs') is not None
    return cfg.train_cfg.get('max_epochs' if by_epoch else 'max_iters'), by_epoch
