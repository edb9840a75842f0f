"""Checks of the optimizer and the schedule of a run."""

from typing import Iterator, Optional, Tuple

from mmcv.cnn import is_norm
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import OPTIMIZERS
from torch import nn

from ..engine.building import find_type
from ..engine.config import dicts, type_name
from ..errors import UsageError, explained, near, some, suggestion
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
    with explained('optim_wrapper cannot be built'):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    paramwise = cfg.optim_wrapper.get('paramwise_cfg') or {}
    keys = paramwise.get('custom_keys') or {}
    names = [name for name, _ in model.named_parameters()]
    words = {word for name in names for word in name.split('.')}
    unused = [key for key in keys if not any(key in name for name in names)]
    similar = [(key, near(key.split('.')[-1], words, 0.85)) for key in unused]
    hints = [f'{key} ({found[0]}?)' for key, found in similar if found and found[0] not in key]
    if hints:  # keys for other networks are common
        report.warnings.append(
            f'paramwise_cfg.custom_keys occur in no parameter name: {some(hints)}'
        )
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
            f'weight decay acts on {len(decayed)} parameters of norms ({some(decayed, 1)}): '
            f'paramwise_cfg.custom_keys ({some(undoing or list(keys))}) undoes '
            'norm_decay_mult=0 for them; list the norms in custom_keys too, with decay_mult=0'
        )
    return wrapper


def check_schedule(cfg: Config, batches: int, report: Report) -> None:
    """Report length, learning rate and schedule of a run with a number of batches per epoch.

    Raises:
        UsageError: the run has no iterations.
    """
    length, by_epoch = length_of(cfg)
    batch_size, wrapper = cfg.train_dataloader.get('batch_size'), cfg.optim_wrapper
    if not batches:
        raise UsageError(
            f'train_dataloader has no batch: its dataset is smaller than batch_size={batch_size}, '
            'and drop_last drops the rest; reduce batch_size or set drop_last=False'
        )
    if length is not None and (not isinstance(length, int) or length < 1):
        key = 'max_epochs' if by_epoch else 'max_iters'
        raise UsageError(f'train_cfg.{key} must be a positive integer, got {length!r}')
    interval = cfg.train_cfg.get('val_interval', 1)
    if cfg.get('val_dataloader') and isinstance(interval, (int, float)) and interval <= 0:
        raise UsageError(f'train_cfg.val_interval must be a positive integer, got {interval!r}')
    iterations = (length or 0) * (batches if by_epoch else 1)
    accumulated = wrapper.get('accumulative_counts', 1)
    if length and accumulated > iterations:
        report.warnings.append(
            f'optim_wrapper.accumulative_counts={accumulated} exceeds the {iterations:,} '
            'iterations of the run, so the optimizer takes a single step; reduce it'
        )
    unit = 'epochs' if by_epoch else 'iterations'
    optimizer, scaling = wrapper.get('optimizer') or {}, cfg.get('auto_scale_lr') or {}
    rate = f'{type_name(optimizer)}, lr {optimizer.get("lr")}'
    if scaling.get('base_batch_size') and not scaling.get('enable'):
        rate += f' (for a total batch size of {scaling["base_batch_size"]:g})'
    report.add('batch', f'{batch_size} x {get_world_size()} process(es)')
    report.add('iterations per epoch', f'{batches:,}')
    report.add('length', f'{length:,} {unit}' if length else 'set by its loop')
    report.add('optimizer', rate)
    for part in [part for _, part in dicts(cfg.get('param_scheduler'), '') if type_name(part)]:
        until = 'the end' if part.get('end') is None else part['end']
        unit = '' if part.get('by_epoch', True) else ' (iterations)'
        report.add('schedule', f'{type_name(part)} {part.get("begin", 0)} to {until}{unit}')
        if length:
            report.warnings += _mismatches(part, length, by_epoch, batches)


def _mismatches(part: dict, length: int, by_epoch: bool, batches: int) -> Iterator[str]:
    """Yield warnings about a scheduler that does not fit the length of a run.

    Raises:
        UsageError: it would stop the run before its end.
    """
    name, in_epochs = type_name(part), part.get('by_epoch', True)
    iterations = length * (batches if by_epoch else 1)
    unit = batches if in_epochs else 1  # iterations of a step of the scheduler
    end, begin = iterations / unit, part.get('begin') or 0
    if name.startswith('ReduceOnPlateau'):
        return  # it steps after evaluations
    if in_epochs and not by_epoch and not part.get('convert_to_iter_based'):
        yield (
            f'{name} of param_scheduler counts epochs, but the run counts iterations, so it '
            'has no effect; set by_epoch=False'
        )
    elif min(part.get('milestones') or [0]) >= end:
        yield (
            f'{name} of param_scheduler has no effect: its milestones {list(part["milestones"])} '
            f'are after the end of the run ({end:g}); lower them'
        )
    elif begin + (part.get('total_steps') or end) < min(part.get('end') or end, end):
        raise UsageError(
            f'{name} of param_scheduler stops the run after total_steps={part["total_steps"]} of '
            f'{end:g}; raise it, or set its end'
        )
    rises = part.get('start_factor', 1 / 3) < part.get('end_factor', 1)
    warm_up = (part.get('end') or 0) * unit
    if name == 'LinearLR' and rises and not begin and 2 * warm_up > iterations:
        yield (
            f'the warm-up takes {warm_up:,} of the {iterations:,} iterations; shorten it (end of '
            'the first param_scheduler) or train longer'
        )


def length_of(cfg: Config) -> Tuple[Optional[int], bool]:
    """Return the epochs or iterations of a run, if configured, and True for epochs."""
    by_epoch = cfg.train_cfg.get('max_epochs') is not None
    return cfg.train_cfg.get('max_epochs' if by_epoch else 'max_iters'), by_epoch
