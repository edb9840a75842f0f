"""Checks of initial weights, schedule and disk space."""

import os
import os.path as osp
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.model import BaseTTAModel
from torch import nn

from ..checkpoint import CheckpointError, read_weights, summary
from ..engine.compat import load_from_guarded
from ..engine.config import dicts, type_name
from ..engine.resuming import progress_of
from ..engine.weight_hooks import InitWeightsHook, StrictWeightsHook
from ..errors import UsageError
from ..models.pretrained import StrictPretrained, is_from_file
from .findings import Report

MOMENTS = {'SGD': 1, 'RMSprop': 1, 'Adagrad': 1, 'Lion': 1}
"""Number of state tensors per parameter of an optimizer; 2 for others, as in AdamW."""


def check_schedule(cfg: Config, batches: int, report: Report) -> None:
    """Report length, learning rate and schedule of a run with a number of batches per epoch.

    Raises:
        UsageError: the run has no iterations.
    """
    length, by_epoch = _length(cfg)
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
    end = length if in_epochs == by_epoch else iterations  # in the units of the scheduler
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
            f'are after the end of the run ({end}); lower them'
        )
    elif part.get('total_steps') and part['total_steps'] < end:
        raise UsageError(
            f'{name} of param_scheduler stops the run after total_steps={part["total_steps"]} of '
            f'{end}; raise it'
        )
    rises = part.get('start_factor', 1 / 3) < part.get('end_factor', 1)
    warm_up = (part.get('end') or 0) * (batches if in_epochs else 1)
    if name == 'LinearLR' and rises and not part.get('begin') and 2 * warm_up > iterations:
        yield (
            f'the warm-up takes {warm_up:,} of the {iterations:,} iterations; shorten it (end of '
            'the first param_scheduler) or train longer'
        )


def check_disk(cfg: Config, model: nn.Module, batches: int, report: Report) -> None:
    """Check that there is enough disk space for the checkpoints of a run.

    A run keeps ``max_keep_ckpts``, or else all, the best of each metric, and one more until an
    older one is removed. Checkpoints of a resumed run are not counted again.

    Raises:
        UsageError: there is not; the message has the numbers.
    """
    hook, folder, option = cfg.default_hooks.get('checkpoint'), cfg.work_dir, '--work-dir'
    if hook is None:
        return
    if hook.get('out_dir'):
        option = 'default_hooks.checkpoint.out_dir'
        folder = osp.join(hook['out_dir'], osp.basename(folder.rstrip('/')))  # as mmengine's hook
    if is_remote(folder):
        report.add('disk', 'not checked: checkpoints go to remote storage')
        return
    free = shutil.disk_usage(check_writable(folder, option)).free
    each, number = _bytes(cfg, model, hook), _number(hook, batches, *_length(cfg))
    path = Path(folder).expanduser()
    saved = [*path.glob('epoch_*.pth'), *path.glob('iter_*.pth')]
    needed = max(number - len(saved), 1) * each
    numbers = f'{number} of {_size(each)} each, {_size(needed)} in all; {_size(free)} are free'
    if needed > free:
        raise UsageError(
            f'not enough disk space in {folder} for the checkpoints of this run '
            f'({numbers}); free some, use another {option}, or keep fewer with --cfg-options '
            'default_hooks.checkpoint.max_keep_ckpts=2'
        )
    report.add('checkpoints', numbers)
    if not number:
        report.warnings.append(
            'no checkpoint is saved: the run is shorter than default_hooks.checkpoint.interval='
            f'{hook.get("interval", 1)}, and save_last is False; lower the interval'
        )


def _bytes(cfg: Config, model: nn.Module, hook: dict) -> int:
    """Return the size of a checkpoint: weights, EMA weights and the state of the optimizer."""
    each = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if any(type_name(part) == 'EMAHook' for _, part in dicts(cfg.get('custom_hooks'), '')):
        each *= 2
    if hook.get('save_optimizer', True):
        trained = [p.numel() * p.element_size() for p in model.parameters() if p.requires_grad]
        optimizer = type_name(cfg.optim_wrapper.get('optimizer') or {})
        each += sum(trained) * MOMENTS.get(optimizer, 2)
    return each


def _length(cfg: Config) -> Tuple[Optional[int], bool]:
    """Return the epochs or iterations of a run, if configured, and True for epochs."""
    by_epoch = cfg.train_cfg.get('max_epochs') is not None
    return cfg.train_cfg.get('max_epochs' if by_epoch else 'max_iters'), by_epoch


def _number(hook: dict, batches: int, length: Optional[int], by_epoch: bool) -> int:
    """Return the maximum number of checkpoints at one time; one if the length is unknown."""
    length, saves_by_epoch = length or 1, hook.get('by_epoch', True)
    if saves_by_epoch and not by_epoch:
        length = 1  # an iteration-based run is one epoch for its hooks
    elif by_epoch and not saves_by_epoch:
        length *= batches
    interval, most = hook.get('interval', 1), hook.get('max_keep_ckpts', -1)
    interval = interval if interval > 0 else length + 1
    kept = length // interval + bool(hook.get('save_last', True) and length % interval)
    if 0 < most < kept:
        kept = most + 1
    best = hook.get('save_best')
    return kept + (1 + len([best] if isinstance(best, str) else best) if best else 0)


def _size(count: float) -> str:
    return f'{count / 2**30:.1f} GiB' if count >= 2**30 else f'{count / 2**20:.0f} MiB'


def check_writable(folder: str, option: str = '--work-dir') -> Path:
    """Check that a folder, which an option sets, exists or can be created, and is writable.

    Returns:
        The nearest folder that exists; nothing is written.

    Raises:
        UsageError: a part of the path is not a folder, or not writable.
    """
    path = Path(folder).expanduser().absolute()
    nearest = next(part for part in (path, *path.parents) if osp.exists(part))
    if not nearest.is_dir():
        raise UsageError(f'{folder}: {nearest} is not a folder; use another {option}')
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(
            f'{folder}: {nearest} is not writable; use another {option} or fix its permissions'
        )
    return nearest


def is_remote(path: str) -> bool:
    """Return True for an address, or a name in the model zoo of an OpenMMLab project."""
    zoos = ('modelzoo:', 'open-mmlab:', 'openmmlab:', 'mmcls:')
    return '://' in path or path.startswith(zoos)


def check_weights(
    cfg: Config, model: nn.Module, phases: Tuple[str, ...], report: Report
) -> Optional[Dict[str, Any]]:
    """Check that the weights from which a run is initialised can be read and match.

    Weights of a backbone must cover it, see :meth:`.StrictPretrained.fit`. In training,
    ``load_from`` must cover the backbone. A checkpoint to resume or test must cover the full
    model. Remote weights are not checked.

    Returns:
        A checkpoint to resume, without its tensors.

    Raises:
        CheckpointError: a file cannot be read or does not match.
    """
    while isinstance(model, BaseTTAModel):
        model = model.module
    training, elsewhere = 'train' in phases, 'not checked, it is not on this machine'
    pretrained = list(from_files(model)) if training else []
    for name, module, init_cfg in pretrained:  # also by a resumed run
        path = str(init_cfg['checkpoint'])
        found = f'{path}: {elsewhere}' if is_remote(path) else _fitted(module, init_cfg)
        report.add(f'pretrained weights of {name or "the model"}', found)
    path = osp.expanduser(cfg.get('load_from') or '')
    if is_remote(path):
        report.add('checkpoint', f'{path}: {elsewhere}')
    elif path:
        resuming = training and bool(cfg.get('resume'))
        initialises = training and not resuming
        hook = InitWeightsHook() if initialises else StrictWeightsHook(resuming)
        checkpoint = load_from_guarded(path, 'cpu')
        report.add('checkpoint', hook.fitted(model, path, checkpoint).report)
        return progress_of(checkpoint) if resuming else None
    elif training and not pretrained:
        report.add('weights', 'none, random initialisation')
        fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
        frozen = sum(
            name.endswith(('.weight', '.bias')) for name in fixed
        )  # not a fixed embedding
        if frozen:
            report.warnings.append(
                f'{frozen} frozen parameter tensors keep random values: set init_cfg, load_from, '
                'or pass --pretrained, or lower frozen_stages'
            )
    return None


def from_files(model: nn.Module) -> Iterator[Tuple[str, nn.Module, dict]]:
    """Yield name, module and init_cfg of the parts of a network initialised from files."""
    for name, module in model.named_modules():
        cfgs = getattr(module, 'init_cfg', None) or ()
        for cfg in cfgs if isinstance(cfgs, (list, tuple)) else (cfgs,):
            if isinstance(cfg, dict) and is_from_file(cfg):
                yield name, module, cfg


def _fitted(module: nn.Module, init_cfg: dict) -> str:
    weights = read_weights(str(init_cfg['checkpoint']), init_cfg.get('prefix'))
    if isinstance(module, StrictPretrained):
        return module.fit(weights)[1]
    source, tensors, wanted = weights.source, weights.tensors, module.state_dict()
    fits = any(name in wanted and t.shape == wanted[name].shape for name, t in tensors.items())
    if not fits and not getattr(module, 'convert_weights', False):  # as Swin and PVT do
        raise CheckpointError(
            f'{source} does not match {type(module).__name__}: 0 of its {len(tensors)} tensors '
            'have a matching name and shape; use other weights, or set init_cfg.prefix'
        )
    return summary(source, tensors, wanted)
